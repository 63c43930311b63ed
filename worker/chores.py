"""Long work in the engine's thread, done a piece at a time so that no running answer waits for the whole of it.

A piece of work is a generator that yields where a step may come between. The engine does one piece before each step,
and one after the other while there are no steps. Invariant: one work is under way at a time, in the order in which they
came, and what was begun is brought to its end.
"""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future
from typing import TypeVar

_Result = TypeVar("_Result")
Work = Generator[None, None, _Result]


class Chores:
    """Owned by the engine, called in its thread."""

    def __init__(self) -> None:
        self._open: deque[Work[None]] = deque()

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, work: Work[None]) -> None:
        """Nobody hears of its errors: what it raises ends the engine."""
        self._open.append(work)

    def advance(self) -> None:
        """Does the next piece."""
        if self._open:
            try:
                next(self._open[0])
            except StopIteration:
                self._open.popleft()

    def finish(self) -> None:
        """Does all that is left."""
        while self._open:
            self.advance()


def promised(work: Work[_Result], future: "Future[_Result]") -> Work[None]:
    """Work whose result, or error, somebody waits for."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = yield from work
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(result)
