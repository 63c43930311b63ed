"""A model's own settings of samplers: which of several sources counts, on every route and wherever they are shown."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.config import GatewayConfig
from router.configfile.loading import load
from router.errors import CommandError
from router.options.flags import parse
from router.options.settings import gateway_config
from router.reload import reload
from tests.router.gateways import Gateway, config, running

pytestmark = pytest.mark.anyio

TOML = """
[server]
temp = 0.1
top-k = 11
[models.hot]
path = "hot.gguf"
worker = { temp = 0.9, min-p = 0.3 }
[models.cold]
path = "cold.gguf"
[aliases.mild]
target = "hot"
defaults = { temperature = 0.5 }
[aliases.fixed]
target = "hot"
forced = { temperature = 0.25 }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("hot", "cold"):
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    (tmp_path / "corral.toml").write_text(TOML)
    return tmp_path


@pytest.fixture
async def gateway(folder: Path) -> AsyncIterator[Gateway]:
    read = configured(folder)
    async with running(config(models=read.models, aliases=read.aliases)) as started:
        yield started


def configured(folder: Path, *arguments: str) -> GatewayConfig:
    given = parse(["--config", str(folder / "corral.toml"), *arguments], {})
    return gateway_config(given, (), load(given))


PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions", "native": "/completion"}


async def told(gateway: Gateway, route: str, model: str, field: str = "temperature", **body: object) -> str:
    """The value with which the worker of the model was asked."""
    asked = f"tell={field}"
    prompt = {"messages": [{"role": "user", "content": asked}]} if route == "chat" else {"prompt": asked}
    answer = (await gateway.client.post(PATHS[route], json={"model": model, **prompt, **body})).json()
    if route == "native":
        return str(answer["content"])
    [choice] = answer["choices"]
    return str(choice["message"]["content"] if route == "chat" else choice["text"])


@pytest.mark.parametrize("route", ["chat", "completions", "native"])
async def test_the_nearest_source_counts(gateway: Gateway, route: str) -> None:
    assert await told(gateway, route, "hot", temperature=0.75) == "0.75"  # the request
    assert await told(gateway, route, "fixed", temperature=0.75) == "0.25"  # but for what an alias forces
    assert await told(gateway, route, "mild") == "0.5"  # an alias' default
    assert await told(gateway, route, "hot") == "0.9"  # the model's flag
    assert await told(gateway, route, "cold") == "0.1"  # the server's
    assert await told(gateway, route, "hot", "top_k") == "11"
    assert await told(gateway, route, "hot", "min_p") == "0.3"
    assert await told(gateway, route, "cold", "min_p") == "0.05"  # llama-server's


async def test_properties_show_what_a_silent_request_gets(gateway: Gateway) -> None:
    shown = {}
    for name in ("hot", "cold", "mild", "fixed"):
        props = (await gateway.client.get("/props", params={"model": name})).json()
        shown[name] = round(props["default_generation_settings"]["params"]["temperature"], 6)
    assert shown == {"hot": 0.9, "cold": 0.1, "mild": 0.5, "fixed": 0.25}


async def test_a_reload_changes_them_without_a_new_worker(gateway: Gateway, folder: Path) -> None:
    before = gateway.app.state.fleet.replicas("hot")[0].pid
    (folder / "corral.toml").write_text(TOML.replace("temp = 0.9", "temp = 0.8"))
    again = configured(folder)
    changes = reload(gateway.app, lambda: config(models=again.models, aliases=again.aliases))
    assert list(map(str, changes)) == ["model hot (sampling): in place"]
    assert await told(gateway, "chat", "hot") == "0.8"
    assert gateway.app.state.fleet.replicas("hot")[0].pid == before


def test_a_flag_of_the_command_line_comes_before_the_file(folder: Path) -> None:
    assert {model.name: model.sampling["temperature"] for model in configured(folder, "--temp", "0.7").models} == {
        "hot": 0.7,
        "cold": 0.7,
    }


def test_presets_may_set_them_too(folder: Path) -> None:
    (folder / "presets.ini").write_text(f"[*]\ntop-k = 5\n[other]\nmodel = {folder}/cold.gguf\ntemp = 0.6\n")
    (folder / "corral.toml").write_text("")
    [model] = configured(folder, "--models-preset", str(folder / "presets.ini")).models
    assert (model.name, model.sampling) == ("other", {"temperature": 0.6, "top_k": 5})


def test_a_wrong_one_is_refused_with_its_line(folder: Path) -> None:
    (folder / "corral.toml").write_text(TOML.replace("temp = 0.9", 'temp = "warm"'))
    wrong = r"corral\.toml:7: models\.hot\.worker\.temp must be a number, but is 'warm'"
    with pytest.raises(CommandError, match=wrong):
        configured(folder)
