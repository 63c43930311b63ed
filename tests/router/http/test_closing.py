"""A port that closes, and callers who are there just before."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from router.http import closing
from router.http.closing import close_port

REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def on_gateways_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Each test has one of its own, of the kind that the gateway runs on."""

    @wraps(test)
    def run(**fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(**fixtures))

    return run


class Port:
    """A server of our own and the callers that reach it."""

    def __init__(self, server: uvicorn.Server, listener: socket.socket) -> None:
        self.server = server
        self._listener = listener
        self.address = listener.getsockname()

    def call(self, sent: bytes) -> socket.socket:
        """Reaches the port without giving the server, which runs in this thread, an opportunity to notice."""
        caller = socket.create_connection(self.address)
        caller.sendall(sent)
        caller.setblocking(False)
        return caller

    async def close(self, hurried: Callable[[], bool] = lambda: False) -> None:
        await close_port(self.server.servers, [self._listener], self.server.server_state, hurried)
        await self.server.shutdown([self._listener])


@asynccontextmanager
async def listening() -> AsyncIterator[Port]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    config = uvicorn.Config(answering, http="httptools", lifespan="off", log_config=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    port = Port(server, listener)
    yield port
    assert not server.server_state.connections


async def answer(caller: socket.socket) -> bytes:
    """What comes; empty: the connection was ended."""
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(caller, 1 << 16), 30)


@on_gateways_loop
async def test_callers_that_nobody_has_accepted_yet_are_answered() -> None:
    async with listening() as port:
        callers = [port.call(REQUEST) for _ in range(50)]
        await port.close()
        for caller in callers:
            assert (await answer(caller)).startswith(b"HTTP/1.1 200")
            caller.close()


@on_gateways_loop
async def test_a_request_that_comes_just_before_an_open_connection_is_ended_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(closing, "_LINGER_SECONDS", 0.0)
    async with listening() as port:
        callers = [port.call(REQUEST) for _ in range(5)]
        for caller in callers:
            assert (await answer(caller)).startswith(b"HTTP/1.1 200")
            caller.send(REQUEST)
        await port.close()
        for caller in callers:
            assert (await answer(caller)).startswith(b"HTTP/1.1 200")
            caller.close()


@on_gateways_loop
async def test_who_has_connected_may_still_send_the_request_but_nobody_connects_any_more() -> None:
    async with listening() as port:
        caller = port.call(b"")
        while not port.server.server_state.connections:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0)
        ended = asyncio.create_task(port.close())
        while port.server.servers[0].is_serving():  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            port.call(REQUEST)
        caller.send(REQUEST)
        assert (await answer(caller)).startswith(b"HTTP/1.1 200")
        caller.close()
        await ended


@on_gateways_loop
async def test_idle_connections_are_ended() -> None:
    async with listening() as port:
        caller = port.call(REQUEST)
        assert (await answer(caller)).startswith(b"HTTP/1.1 200")
        await port.close()
        assert await answer(caller) == b""
        caller.close()


@on_gateways_loop
async def test_nobody_is_waited_for_in_a_hurry() -> None:
    looks: list[bool] = []
    async with listening() as port:
        await port.close(lambda: not looks.append(True))
    assert len(looks) == 1
