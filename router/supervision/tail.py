"""The last lines somebody wrote, for those who come later and those who go on listening.

Owned by replicaset.py, one per model, fed with its workers' output; read by api/fleet.py. Invariant: bounded, however
much is written; a listener that is too slow misses lines and is told how many.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

MAX_LINES = 1000


class Tail:
    """Lines, the oldest of which are forgotten."""

    def __init__(self, max_lines: int = MAX_LINES) -> None:
        self._lines: deque[str] = deque(maxlen=max_lines)
        self._num_written = 0
        self._written = asyncio.Event()
        self._ended = False

    def end(self) -> None:
        """Lets everyone go who listens, and whoever will. Lines may still be added."""
        self._ended = True
        self._written.set()

    def add(self, line: str) -> None:
        self._lines.append(line)
        self._num_written += 1
        written, self._written = self._written, asyncio.Event()
        written.set()

    def last(self, num_lines: int) -> tuple[str, ...]:
        """The newest lines, the newest at the end."""
        return tuple(self._lines)[-num_lines:] if num_lines > 0 else ()

    async def follow(self, num_lines: int) -> AsyncIterator[str]:
        """The newest lines, then those to come, until end()."""
        position = self._num_written - min(num_lines, len(self._lines))
        while not self._ended or position < self._num_written:
            forgotten = self._num_written - len(self._lines)
            if position < forgotten:
                yield f"({forgotten - position} lines were lost on the way)"
                position = forgotten
            while position < self._num_written and position >= self._num_written - len(self._lines):
                line = self._lines[position - self._num_written]
                position += 1
                yield line
            if position == self._num_written and not self._ended:
                await self._written.wait()
