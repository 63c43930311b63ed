"""What this process takes of the machine's memory, read so seldom that it costs nothing.

Owned by rpc/service.py, for Stats. Pages that n processes map count as 1/n, so that the workers of a model, which share
its weights and what their nursery loaded, can be added up. To tell, the system walks all pages of a process. Invariant:
the event loop never waits for that, and it takes at most a hundredth of a thread's time.
"""

import asyncio
import math
import time
from collections.abc import Callable
from pathlib import Path

_SMAPS = Path("/proc/self/smaps_rollup")
_LEAST_PAUSE = 10.0  # seconds
_PAUSE = 100.0  # times what a look took


def proportional_bytes() -> int:
    """0 where the system does not tell. The interpreter is free while the system counts."""
    try:
        lines = _SMAPS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


class Footprint:
    """The last figure, and the next look for it."""

    def __init__(
        self, measure: Callable[[], int] = proportional_bytes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._measure = measure
        self._clock = clock
        self._bytes = 0
        self._again = -math.inf  # not before this time
        self._looking: asyncio.Task[None] | None = None

    def proportional(self) -> int:
        """As it was when it was last looked at; 0 before that. May look again meanwhile."""
        if self._looking is None and self._clock() >= self._again:
            self._looking = asyncio.create_task(self._look())
        return self._bytes

    async def _look(self) -> None:
        began = self._clock()
        self._bytes = await asyncio.to_thread(self._measure)
        took = self._clock() - began
        self._again = self._clock() + max(_LEAST_PAUSE, _PAUSE * took)
        self._looking = None
