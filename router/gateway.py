"""The gateway in operation: an HTTP server on sockets that are bound, over workers that are starting, and its way down.

serve.py calls `serve`. Invariant: a first signal loses no open request that ends within the drain timeout.
"""

import asyncio
import gc
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress

import uvicorn
from fastapi import FastAPI

from router.app import create_app
from router.banner import Banner
from router.config import GatewayConfig
from router.errors import CommandError
from router.fleet.fleet import Fleet
from router.fleet.lifecycle import ModelState, ModelStatus
from router.http.closing import close_port
from router.http.connection import Connection
from router.http.listen import address
from router.observe.traces import exporting
from router.reload import ReadAgain, reload
from router.watching import Watcher, watch

KEEP_ALIVE_SECONDS = 75  # longer than a reverse proxy keeps an idle connection
_GC_THRESHOLD = 20_000  # objects more than before, until garbage is looked for: requests leave few cycles behind

log = logging.getLogger("corral")


async def serve(config: GatewayConfig, sockets: Sequence[socket.socket], fleet: Fleet, read_again: ReadAgain) -> int:
    """Serves until told to stop; 1 if no model could be loaded. SIGHUP, or a change of its files, reads it again.

    A SIGHUP because the terminal it was started from is closed ends it.
    """
    traces = exporting(config.otlp, os.environ)
    app = create_app(config, fleet, traces)
    server = _Server(_uvicorn_config(app, config))
    shutdown = Shutdown(server, fleet, config)
    shutdown.hear_signals()
    app.state.reload = lambda: [str(difference) for difference in reload(app, read_again)]
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _hung_up, app, shutdown, _terminals())
    watching = _watching(app) if config.watch and config.files else None
    banner = Banner(config, [address(listener, config.tls is not None) for listener in sockets])
    banner.listening()
    start = asyncio.create_task(_report_start(banner, fleet, server))
    try:
        if config.listen_when_ready:
            await _settled(fleet)
        await server.serve(sockets=list(sockets))
    finally:
        shutdown.cancel()
        start.cancel()
        if watching is not None:
            watching.cancel()
        await fleet.stop(0)
        await asyncio.to_thread(traces.close)
    failed = start.result() if start.done() and not start.cancelled() else []
    for status in failed:
        print(f"error: {status.name}: {status.reason}", file=sys.stderr)
    return 1 if failed else 0


async def _settled(fleet: Fleet) -> None:
    """Returns once every model has been ready, or never will be; at once if that is not waited for any more."""
    while not fleet.settled and not fleet.draining:
        await fleet.change()


async def _report_start(banner: Banner, fleet: Fleet, server: uvicorn.Server) -> list[ModelStatus]:
    """Shows the start. If no model at all could be loaded, ends the server and returns them."""
    await banner.loading(fleet)
    models = fleet.models()
    if all(status.state is ModelState.FAILED for status in models):
        server.should_exit = True
        return models
    gc.freeze()  # what is there by now stays; no collection need look at it again
    gc.set_threshold(_GC_THRESHOLD)
    if not server.should_exit:
        banner.settled(models)
    return []


def _watching(app: FastAPI) -> asyncio.Task[None]:
    """Reads the configuration again when its files change."""
    watcher = Watcher(lambda: app.state.config.files, lambda: app.state.awaited)
    return asyncio.create_task(watch(watcher, lambda: _read_again(app)), name="watching")


def _hung_up(app: FastAPI, shutdown: "Shutdown", terminals: Sequence[int]) -> None:
    """Somebody asks for a reload, or the terminal is closed."""
    if terminals and not _terminals():
        shutdown.begin()
    else:
        _read_again(app)


def _terminals() -> list[int]:
    """Which of standard input, output and error are a terminal; one that was closed is none any more."""
    return [number for number in range(3) if os.isatty(number)]


def _read_again(app: FastAPI) -> None:
    with suppress(CommandError):  # reload.py has told the log
        app.state.reload()


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

    def begin(self) -> None:
        """As a first SIGINT does."""
        self._on_signal(0.0)

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
    """uvicorn without its own signal handlers, and with a port that closes more gently."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await close_port(self.servers, sockets or [], self.server_state, lambda: self.force_exit)
        await super().shutdown(sockets)


def _uvicorn_config(app: object, config: GatewayConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=Connection,
        ws="none",
        proxy_headers=False,  # nobody asks where a request came from
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
