# ruff: noqa: ASYNC110 (nothing tells what waits in the kernel)
"""How the port closes: whoever has reached it by then, or sends on a connection that is open, still gets an answer.

The system resets a connection that nobody has accepted, and one that is closed before all that came was read. A proxy
that has sent a request on it cannot know whether it had begun, and must not send it to another gateway. gateway.py
calls `close_port` after the lame duck and before uvicorn ends the connections that are idle. Invariant: it ends,
however many callers come.
"""

import asyncio
import select
import socket
import time
from collections.abc import Callable, Iterable, Sequence

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

_LINGER_SECONDS = 0.5  # from a connection to its request, with room to spare
_LONGEST_SECONDS = 2.0  # for callers who never cease
_LOOK_SECONDS = 0.02


async def close_port(
    servers: Iterable[asyncio.AbstractServer],
    sockets: Sequence[socket.socket],
    state: ServerState,
    hurried: Callable[[], bool],
) -> None:
    """Returns when every connection is idle or computes its last answer, or at once when it is `hurried`."""
    longest = time.monotonic() + _LONGEST_SECONDS
    while _readable(listener.fileno() for listener in sockets) and time.monotonic() < longest:
        await asyncio.sleep(0)  # the loop accepts
    for server in servers:
        server.close()
    for listener in sockets:
        listener.close()
    linger = time.monotonic() + _LINGER_SECONDS
    while time.monotonic() < linger and not hurried():
        await asyncio.sleep(_LOOK_SECONDS)
    while _readable(_idle(state)) and time.monotonic() < longest and not hurried():
        await asyncio.sleep(0)  # the loop reads


def _idle(state: ServerState) -> Iterable[int]:
    """The descriptors of open connections on which no request is answered."""
    for connection in state.connections:
        assert isinstance(connection, HttpToolsProtocol)
        answered = connection.cycle is None or connection.cycle.response_complete
        if answered and not connection.transport.is_closing():
            yield connection.transport.get_extra_info("socket").fileno()


def _readable(descriptors: Iterable[int]) -> bool:
    """Whether something came that was not taken yet."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
