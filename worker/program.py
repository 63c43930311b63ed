"""python -m worker -m FILE --listen unix:PATH|HOST:PORT: one model as a gRPC server.

With --nursery instead of --listen it loads the model and forks such servers. Exit status: 0 drained, 1 killed or broken
while serving, 2 could not start; the last two with a line "error: ..." on standard error. A second SIGTERM or SIGINT
does not wait for the drain.
"""

import asyncio
import logging
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import uvloop

from worker.arguments import access, parser, worker_config
from worker.config import WorkerConfig
from worker.errors import ModelFileError, WorkerError
from worker.generation import Event, Sink
from worker.nursery import tend
from worker.process import Progress, die_with, die_with_parent, set_up, settle, take_name
from worker.rpc.access import Access
from worker.rpc.exchange import post_events
from worker.rpc.loaded import LoadedModel
from worker.rpc.server import Server
from worker.startup import Prepared, prepare, start
from worker.traces import exporting

log = logging.getLogger("worker")

EXIT_BROKEN = 1
EXIT_NOT_STARTED = 2


def main() -> NoReturn:
    arguments = parser().parse_args()
    set_up()
    if arguments.nursery is None:
        _leave_after(_work, arguments)
    _leave_after(_nurse, arguments)


def _leave_after(life: Callable[..., None], arguments: Namespace, *more: Any) -> NoReturn:
    """Ends the process with the status of a life, and a line that says what cut it short."""
    try:
        life(arguments, *more)
        status = 0
    except (WorkerError, OSError) as error:
        status = EXIT_NOT_STARTED
        print(f"error: {_one_line(error, arguments.model)}", file=sys.stderr)
    except MemoryError:
        status = EXIT_NOT_STARTED
        print("error: out of memory while loading the model", file=sys.stderr)
    sys.stderr.flush()
    os._exit(status)  # threads that still tokenise or load have nothing left to do


def _work(arguments: Namespace, prepared: Prepared | None = None) -> None:
    take_name("corral-worker")
    if arguments.parent_fd is not None:
        die_with(arguments.parent_fd)
    allowed = access(arguments, os.environ)
    uvloop.run(_serve(worker_config(arguments), allowed, arguments.health_listen, arguments.grace, prepared))


def _nurse(arguments: Namespace) -> None:
    take_name("corral-nursery")
    die_with_parent()
    if arguments.parent_fd is not None:
        os.close(arguments.parent_fd)  # its workers have theirs; the socket says when no more are wanted
    progress = Progress()
    try:
        prepared = prepare(worker_config(arguments), progress)
    finally:
        progress.end()
    settle()
    tend(arguments.nursery, lambda given: _leave_after(_work, parser().parse_args(given), prepared))


async def _serve(
    config: WorkerConfig, allowed: Access, health_listen: str | None, grace: float, prepared: Prepared | None
) -> None:
    loop = asyncio.get_running_loop()
    terminated = _on_signals(loop)
    # So many that the engine's waiting line refuses first, and so few that memory holds them.
    server = Server(allowed, 2 * (config.max_waiting + config.max_running) + 64, exporting(os.environ))
    listen = await server.start(config.listen, health_listen)
    loading = asyncio.create_task(_load(config, loop, prepared))
    terminating = asyncio.create_task(terminated.wait())
    try:
        await asyncio.wait((loading, terminating), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            await server.open(loading.result())
            log.info("serving %s on %s", config.model_path, listen)
            await terminated.wait()
    finally:
        await server.drain(grace)


async def _load(config: WorkerConfig, loop: asyncio.AbstractEventLoop, prepared: Prepared | None) -> LoadedModel:
    progress = Progress()

    def post(events: list[tuple[Sink, Event]]) -> None:
        loop.call_soon_threadsafe(post_events, events)

    def load() -> LoadedModel:
        return start(prepared or prepare(config, progress), config, post, _die)

    try:
        # A thread of its own: the loop's would be waited for, even if a signal ends the worker while it loads.
        model = await loop.run_in_executor(ThreadPoolExecutor(1, "load"), load)
    finally:
        progress.end()
    settle()
    return model


def _on_signals(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """Set by the first signal; the second one ends the process."""
    terminated = asyncio.Event()

    def receive() -> None:
        if terminated.is_set():
            os._exit(EXIT_BROKEN)
        terminated.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, receive)
    return terminated


def _die(error: BaseException) -> NoReturn:
    print(f"error: the engine cannot go on: {type(error).__name__}", file=sys.stderr, flush=True)
    os._exit(EXIT_BROKEN)


def _one_line(error: Exception, path: Path) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or path}: {error.strerror or error}"
    message = " ".join(str(error).split())
    return f"{path}: {message}" if isinstance(error, ModelFileError) and str(path) not in message else message
