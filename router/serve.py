"""`corral serve`: from a command line to running workers, and then to the gateway.

Run by __main__.py. First flags, then sockets, then workers: a mistake or a taken port ends it before anything starts.
The HTTP side is imported while the workers load, by name, as __main__.py does with this module: it takes half a second.
What answers questions is imported where there are any.
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
from router.observe.traces import OTLP_VARIABLES
from router.options.flags import EXIT_USAGE, FileValue, Given, long_names, parse, usage
from router.options.settings import gateway_config
from router.supervision.runfolder import writable_base

_HELP = frozenset({"-h", "--help", "--usage"})
_GATEWAY = "router.gateway"
_INQUIRIES = "router.inquiries"
_TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 (a name)


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    if _HELP & set(arguments):
        print(usage())
        return 0
    try:
        given = parse(arguments, os.environ)
        if given.asks:
            print(importlib.import_module(_INQUIRIES).answers(given))
            return 0
        file = load(given)
        server = given.filled(file.server)
        fetched = [_pull(words, server) for words in _sources(server)]
        given = _with_draft(given)
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


def _sources(given: Given) -> list[list[str]]:
    """Models to fetch first, as `corral pull` is told."""
    repositories, file = given.values.get("hf_repo", ()), given.last("hf_file")
    if file and len(repositories) != 1:
        raise CommandError(f"--hf-file is a file of one repository, but -hf names {len(repositories)}", EXIT_USAGE)
    words = ["--file", file] if file else []
    return [
        *([_repository(name), *words] for name in repositories),
        *([url] for url in given.values.get("model_url", ())),
    ]


def _repository(name: str) -> str:
    return f"hf:{name.removeprefix('hf:')}"


def _with_draft(given: Given) -> Given:
    """With the file that --spec-draft-hf means as --model-draft, unless there is one already."""
    repository = given.last("spec_draft_hf")
    if not repository or given.last("model_draft"):
        return given
    file = _pull([_repository(repository)], given)
    return given.filled({"model_draft": FileValue(long_names()["model-draft"], "--model-draft", (str(file),), "")})


def _pull(words: Sequence[str], given: Given) -> Path:
    """Runs `corral pull`, which shows its own progress and errors."""
    offline = ["--offline"] if given.on("offline") else []
    token = {_TOKEN_VARIABLE: token} if (token := given.last("hf_token")) else {}
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-P", "-m", "router", "pull", *offline, *words],
        stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, **token},
    )  # fmt: skip
    if done.returncode != 0:
        raise CommandError(f"could not fetch {words[0]}", done.returncode)
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
