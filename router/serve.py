"""`corral serve`: from a command line to a running gateway, and down again.

Run by __main__.py. First flags, then sockets, then workers: a mistake or a taken port ends it before anything starts.
Invariant: when it returns, no worker is left.
"""

import asyncio
import logging
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn
import uvloop

from router import logs
from router.app import create_app
from router.banner import Banner
from router.config import GatewayConfig
from router.errors import CommandError
from router.flags import Given, parse, usage
from router.listen import address, bind
from router.runfolder import writable_base
from router.settings import gateway_config
from router.supervisor import Fleet, ModelState, ModelStatus

KEEP_ALIVE_SECONDS = 75  # longer than a reverse proxy keeps an idle connection
_HELP = frozenset({"-h", "--help", "--usage"})

log = logging.getLogger("corral")


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    if _HELP & set(arguments):
        print(usage())
        return 0
    try:
        given = parse(arguments, os.environ)
        config = gateway_config(given, [_pull(source) for source in _sources(given)])
        logs.configure(config.log)
        writable_base(os.environ)
        sockets = bind(config)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve(config, sockets))
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


async def serve(config: GatewayConfig, sockets: Sequence[socket.socket]) -> int:
    """Serves until told to stop; 1 if no model could be loaded."""
    app = create_app(config)
    fleet: Fleet = app.state.fleet
    server = _Server(_uvicorn_config(app, config))
    shutdown = Shutdown(server, fleet, config)
    shutdown.hear_signals()
    banner = Banner(config, [address(listener, config.tls is not None) for listener in sockets])
    banner.listening()
    start = asyncio.create_task(_report_start(banner, fleet, server))
    try:
        await server.serve(sockets=list(sockets))
    finally:
        shutdown.cancel()
        start.cancel()
        await fleet.stop(0)
    failed = start.result() if start.done() and not start.cancelled() else []
    for status in failed:
        print(f"error: {status.name}: {status.reason}", file=sys.stderr)
    return 1 if failed else 0


async def _report_start(banner: Banner, fleet: Fleet, server: uvicorn.Server) -> list[ModelStatus]:
    """Shows the start. If no model at all could be loaded, ends the server and returns them."""
    await banner.loading(fleet)
    models = fleet.models()
    if all(status.state is ModelState.FAILED for status in models):
        server.should_exit = True
        return models
    if not server.should_exit:
        banner.settled(models)
    return []


class Shutdown:
    """The way down: the first signal drains, the second ends it now."""

    def __init__(self, server: uvicorn.Server, fleet: Fleet, config: GatewayConfig) -> None:
        self._server = server
        self._fleet = fleet
        self._config = config
        self._tasks: list[asyncio.Task[None]] = []

    def hear_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number, lame_duck in ((signal.SIGTERM, self._config.lame_duck), (signal.SIGINT, 0.0)):
            loop.add_signal_handler(number, self._on_signal, lame_duck)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _on_signal(self, lame_duck: float) -> None:
        if not self._tasks:
            self._tasks.append(asyncio.create_task(self._drain(lame_duck)))
            return
        self._server.should_exit = self._server.force_exit = True
        self._tasks.append(asyncio.create_task(self._fleet.stop(0)))

    async def _drain(self, lame_duck: float) -> None:
        """/ready says 503; then the port closes; then open requests finish; then what is left is cut."""
        log.info("draining: open requests get %g s; a second signal ends them now", self._config.drain_timeout)
        self._fleet.begin_drain()
        await asyncio.sleep(lame_duck)
        self._server.should_exit = True
        await asyncio.sleep(self._config.drain_timeout)
        log.warning("open requests are cut: they took longer than the drain timeout")
        await self._fleet.stop(0)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _uvicorn_config(app: object, config: GatewayConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=[("server", "corral")],
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(config.drain_timeout) + 5,
        ssl_keyfile=str(config.tls.key_file) if config.tls else None,
        ssl_certfile=str(config.tls.cert_file) if config.tls else None,
    )


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
