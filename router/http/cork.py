"""A transport that is written to once in a turn of the event loop: an answer's head and body leave together.

connection.py puts one in front of each client's. Invariant: what was written before `close` is sent, in its order; how
full the system's buffer is stays known to whoever writes.
"""

import asyncio
from typing import Any


class Cork:
    """A transport in front of another, which gets what comes until the end of the turn in one piece."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pending: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if pending and not self._transport.is_closing():
            self._transport.write(b"".join(pending))
