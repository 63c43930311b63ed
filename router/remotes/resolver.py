"""From the name of a host to its addresses, now and whenever they change.

remoteset.py follows every `dns:///` target with it. Invariant: a name that cannot be looked up keeps the addresses it
had: workers that can be reached serve on while a name server is down.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

Lookup = Callable[[str], Awaitable[Sequence[str]]]  # the addresses of a host, in any order. Raises OSError


async def system_lookup(host: str) -> Sequence[str]:
    """As this host looks names up. Of a host with both kinds of addresses only the IPv4 ones: it is there once."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    by_family: dict[int, set[str]] = {}
    for family, _, _, _, address in found:
        by_family.setdefault(family, set()).add(str(address[0]))
    return sorted(by_family.get(socket.AF_INET) or by_family.get(socket.AF_INET6) or ())


class Resolution:
    """One name, looked up again after every interval and when somebody asks for it."""

    def __init__(self, host: str, lookup: Lookup, interval: float) -> None:
        self._host = host
        self._lookup = lookup
        self._interval = interval  # seconds
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Look it up soon: one of its addresses does not answer."""
        self._asked.set()

    async def answers(self) -> AsyncGenerator[tuple[str, ...] | OSError, None]:
        """The addresses, or why there are none, at every look; never ends."""
        while True:
            self._asked.clear()
            try:
                yield tuple(await self._lookup(self._host))
            except OSError as error:
                yield error
            try:
                async with asyncio.timeout(self._interval):
                    await self._asked.wait()
            except TimeoutError:
                continue
