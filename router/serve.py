"""`corral serve`: from a command line to running workers, and then to the gateway.

Run by __main__.py. First flags, then sockets, then workers: a mistake or a taken port ends it before anything starts.
The HTTP side is imported while the workers load, by name, as __main__.py does with this module: it takes half a second.
Invariant: when it returns, no worker is left.
"""

import asyncio
import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path

import uvloop

from router.config import GatewayConfig
from router.configfile.loading import load
from router.errors import CommandError
from router.fleet.fleet import Fleet
from router.http.listen import bind
from router.observe import logs
from router.options.flags import Given, parse, usage
from router.options.settings import gateway_config
from router.supervision.runfolder import writable_base

_HELP = frozenset({"-h", "--help", "--usage"})
_GATEWAY = "router.gateway"
OTLP_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    if _HELP & set(arguments):
        print(usage())
        return 0
    try:
        given = parse(arguments, os.environ)
        file = load(given)
        fetched = [_pull(source) for source in _sources(given.filled(file.server))]
        config = gateway_config(given, fetched, file)
        logs.configure(config.log)
        writable_base(os.environ)
        _tell_exporters(config.otlp, os.environ)
        sockets = bind(config)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(config, sockets, lambda: gateway_config(given, fetched, load(given))))
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _sources(given: Given) -> list[str]:
    """Models to fetch first."""
    repositories = [f"hf:{name.removeprefix('hf:')}" for name in given.values.get("hf_repo", ())]
    return [*repositories, *given.values.get("model_url", ())]


def _pull(source: str) -> Path:
    """Runs `corral pull`, which shows its own progress and errors."""
    command = [sys.executable, "-P", "-m", "router", "pull", source]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise CommandError(f"could not fetch {source}", done.returncode)
    return Path(done.stdout.splitlines()[-1])


def _tell_exporters(endpoint: str | None, environment: MutableMapping[str, str]) -> None:
    """By OpenTelemetry's own variables, which workers inherit."""
    if endpoint is not None and endpoint not in (environment.get(name) for name in OTLP_VARIABLES):
        for name in OTLP_VARIABLES:
            environment.pop(name, None)
        environment[OTLP_VARIABLES[-1]] = endpoint


async def _serve(
    config: GatewayConfig, sockets: Sequence[socket.socket], read_again: Callable[[], GatewayConfig]
) -> int:
    async with Fleet(config.models, config.supervision, config.residency) as fleet:
        gateway = await asyncio.to_thread(importlib.import_module, _GATEWAY)
        status: int = await gateway.serve(config, sockets, fleet, read_again)
        return status


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
