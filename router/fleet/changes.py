"""Something that changes, and those who wait until it does.

Used by fleet.py and replicaset.py. Invariant: whoever remembers the count it has acted on misses no change.
"""

import asyncio


class Changes:
    """Counted, and waited for."""

    def __init__(self) -> None:
        self.count = 0  # of its changes
        self._event = asyncio.Event()

    def tell(self) -> None:
        self.count += 1
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, seen: int | None = None) -> None:
        """Returns at the next change, or at once if it has changed since its count was `seen`."""
        if seen is None or seen == self.count:
            await self._event.wait()
