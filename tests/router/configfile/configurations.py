"""A corral.toml, and what a command line makes of it and other files."""

from router.config import GatewayConfig
from router.configfile.loading import load
from router.options.flags import parse
from router.options.settings import gateway_config

TOML = """[server]
ctx-size = 100
port = 1111
[models.small]
path = "a.gguf"
worker = { ctx-size = 200, parallel = 3 }
[models.big]
path = "b.gguf"
[aliases]
chat = "small"
"""


def configured(line: str = "", environment: dict[str, str] | None = None) -> GatewayConfig:
    given = parse(line.split(), environment or {})
    return gateway_config(given, (), load(given))


def arguments(config: GatewayConfig) -> dict[str, str]:
    return {model.name: " ".join(model.worker_arguments) for model in config.models}
