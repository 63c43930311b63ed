"""Processes that take turns by one lease, each told what to do through a pipe."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from worker.cores.atomic import compare_and_swap
from worker.cores.lease import CoreLease

compare_and_swap.compile()

DEADLINE = 120.0
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])


class Turn(NamedTuple):
    """One step, in nanoseconds of a clock that all processes share."""

    began: int
    ended: int


def take_turns(pipe: Connection, path: Path, weight: float, quantum: int) -> None:
    """Computes as many steps as each message says, -1 for one that lasts until the next message."""
    lease = CoreLease(path, weight, quantum)
    pipe.send("joined")
    while (num_steps := pipe.recv()) is not None:
        for _ in range(abs(num_steps)):
            with lease:
                began = time.monotonic_ns()
                if num_steps < 0:
                    pipe.send("computing")
                    pipe.recv()
                while time.monotonic_ns() < began + 1_000_000:
                    pass
                turn = Turn(began, time.monotonic_ns())
            pipe.send(turn)
        lease.release()


class Taker:
    """One such process."""

    def __init__(self, path: Path, weight: float = 1.0, quantum: int = 0) -> None:
        self._pipe, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=take_turns, args=(theirs, path, weight, quantum), daemon=True)
        self._process.start()
        theirs.close()
        assert self.hear() == "joined"

    def hear(self) -> Any:
        assert self._pipe.poll(DEADLINE), "waited too long"
        return self._pipe.recv()

    def compute(self, num_steps: int) -> None:
        """Asks for so many steps."""
        self._pipe.send(num_steps)

    def turns(self, num_steps: int) -> list[Turn]:
        """The next ones it has computed."""
        return [self.hear() for _ in range(num_steps)]

    def compute_on(self) -> None:
        """It computes a step that goes on until `end_step`."""
        self._pipe.send(-1)
        assert self.hear() == "computing"

    def end_step(self) -> Turn:
        self._pipe.send("end")
        turn: Turn = self.hear()
        return turn

    def signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Returns when nothing of it is left."""
        self.signal(signal.SIGKILL)
        self._process.join(DEADLINE)
        self._pipe.close()


@contextmanager
def takers(path: Path, *weights: float, quantum: int = 0) -> Iterator[list[Taker]]:
    started: list[Taker] = []
    try:
        for weight in weights:
            started.append(Taker(path, weight, quantum))
        yield started
    finally:
        for taker in started:
            if taker._process.is_alive():
                taker.kill()


def collect(processes: list[Taker], num_steps: int) -> list[list[Turn]]:
    """So many turns of each, read as they come, so that no pipe fills."""
    found: dict[Any, list[Turn]] = {taker._pipe: [] for taker in processes}
    while open_pipes := [pipe for pipe, turns in found.items() if len(turns) < num_steps]:
        ready = wait(open_pipes, DEADLINE)
        assert ready, "waited too long"
        for pipe in ready:
            found[pipe].append(pipe.recv())
    return list(found.values())
