"""A process that has loaded a model and forks a worker whenever it is asked to: python -m worker --nursery N.

worker/program.py runs `tend` once everything is in memory that the workers of one configuration have in common. Its
pages stay shared for as long as nobody writes to them, and a worker is there in milliseconds. The gateway asks
(router/supervision/nursery.py), over a socket of whole packets, and gets a reply to each request, in their order:

    {"arguments": [...], "environment": {...}}, with the lifeline's reading end and the output pipe's writing end
    {"pid": N}  or  {"error": "..."}

A worker is forked twice and the process between ends at once, so that the gateway, the nearest ancestor which adopts
orphans, becomes its parent: it reaps the worker like one that it started, and a nursery that dies takes none along.
Invariant: where a process is forked, there is one thread.
"""

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import orjson

from worker.errors import WorkerError

_MOST_BYTES = 1 << 20  # of a request
_NUM_FILES = 2
_PID_BYTES = 8


class NotAlone(WorkerError):
    """Locks that other threads hold would stay locked in a forked process."""


def tend(control: int, live: Callable[[list[str]], NoReturn]) -> None:
    """Forks until the socket's other end is closed. `live` gets a worker's command line, in its process.

    Raises NotAlone.
    """
    num_threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    if num_threads != 1:
        raise NotAlone(f"workers cannot be forked from a process with {num_threads} threads")
    with socket.socket(fileno=control) as asked, suppress(BrokenPipeError):
        while True:
            request, files, _, _ = socket.recv_fds(asked, _MOST_BYTES, _NUM_FILES)
            if not request:
                return
            is_worker = False
            try:
                is_worker = _fork_away(lambda pid: _reply(asked, {"pid": pid}))
            except OSError as error:
                _reply(asked, {"error": error.strerror or str(error)})
            if is_worker:
                asked.close()
                live(_settled(request, files))
            for file in files:
                os.close(file)


def _reply(asked: socket.socket, told: dict[str, object]) -> None:
    asked.send(orjson.dumps(told))


def _fork_away(announce: Callable[[int], None]) -> bool:
    """Forks a process that leads a session of its own and is not ours to reap; True in it. Raises OSError.

    `announce` gets its pid while it is still of our group, with which it would be killed and reaped: there is no moment
    in which nobody knows of it.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        between = os.fork()
        if between == 0:
            ours.close()
            _leave_a_child()
            theirs.send(os.getpid().to_bytes(_PID_BYTES))
            if not theirs.recv(1):
                os._exit(1)  # the nursery ended before it could announce us
            os.setsid()
            return True
        theirs.close()
        os.waitpid(between, 0)  # from here on the gateway is its parent
        pid = ours.recv(_PID_BYTES)
        if not pid:
            raise OSError("the system gives no further process")
        announce(int.from_bytes(pid))
        with suppress(BrokenPipeError):  # it was killed; the gateway will see
            ours.send(b"\0")
        return False


def _leave_a_child() -> None:
    """Returns in a child of this process, which ends."""
    try:
        pid = os.fork()
    except OSError:
        os._exit(1)
    if pid:
        os._exit(0)


def _settled(request: bytes, files: Sequence[int]) -> list[str]:
    """In the new process: gives it its output and its environment; its command line."""
    lifeline, output = files
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    told = orjson.loads(request)
    os.environ.update(told["environment"])
    return [*told["arguments"], "--parent-fd", str(lifeline)]
