"""What a client gets for bytes that are no request."""

import asyncio
from collections.abc import Callable

import orjson
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from router.http.connection import HEAD_LIMIT, Connection
from tests.router.http.test_cork import Transport

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" + b"b" * 1000


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body, once it is complete."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(body or b"nothing")(scope, receive, send)


async def half(_: Scope, __: Receive, send: Send) -> None:
    """Begins an answer and does not go on."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"so far", "more_body": True})
    await asyncio.Event().wait()


class Socket(Transport):
    """A transport that tells when it was closed, and of which nothing is read while it is paused."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: Callable[[], object] = lambda: None

    def close(self) -> None:
        if not self.closed:
            asyncio.get_running_loop().call_soon(self.lost)
        super().close()

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Client:
    """The other end of a Connection."""

    def __init__(self, app: Callable[..., object] = echo) -> None:
        config = uvicorn.Config(app, ws="none", server_header=False, date_header=False)  # type: ignore[arg-type]
        config.load()
        state = ServerState()
        state.default_headers = [(b"server", b"corral")]
        self.transport = Socket()
        self.connection = Connection(config, state, {}, asyncio.get_running_loop())
        self.transport.lost = lambda: self.connection.connection_lost(None)
        self.connection.connection_made(self.transport)

    async def send(self, *pieces: bytes) -> bytes:
        """What comes back for them; nothing is sent to a connection that is closed."""
        for piece in pieces:
            if not self.transport.closed:
                self.connection.data_received(piece)
        return await self.received()

    async def received(self) -> bytes:
        for _ in range(20):
            await asyncio.sleep(0)
        return b"".join(self.transport.written)


def error_of(answer: bytes) -> tuple[bytes, dict[str, object]]:
    """Status line and error, of an answer that says how long it is and that the connection ends."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert {b"server: corral", b"connection: close", f"content-length: {len(body)}".encode()} <= set(lines)
    assert b"content-type: application/json; charset=utf-8" in lines
    return lines[0], orjson.loads(body)["error"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the beginning of TLS
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad\x00name: x\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nnot hexadecimal\r\n",
    ],
)
async def test_what_is_no_request_is_answered_with_an_envelope(garbage: bytes) -> None:
    client = Client()
    status, error = error_of(await client.send(garbage))
    assert status == b"HTTP/1.1 400 Bad Request"
    assert (error["code"], error["type"]) == (400, "invalid_request_error")
    assert client.transport.closed


@pytest.mark.parametrize("num_pieces", [1, 7])
@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * HEAD_LIMIT + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"a" * HEAD_LIMIT + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * HEAD_LIMIT + b"\r\n",
    ],
)
async def test_a_head_that_is_too_large_is_told_so(head: bytes, num_pieces: int) -> None:
    client, size = Client(), len(head) // num_pieces + 1
    status, error = error_of(await client.send(*(head[at : at + size] for at in range(0, len(head), size))))
    assert status == b"HTTP/1.1 431 Request Header Fields Too Large"
    assert (error["code"], str(HEAD_LIMIT) in str(error["message"])) == (431, True)


async def test_a_head_without_an_end_is_not_kept() -> None:
    client = Client()
    pieces = [b"GET / HTTP/1.1\r\nx: ", *[b"a" * 1024] * 1000]
    assert error_of(await client.send(*pieces))[0].startswith(b"HTTP/1.1 431")
    assert client.connection._num_head_bytes <= HEAD_LIMIT + 1024


@pytest.mark.parametrize(("request_", "num"), [(GET, 1500), (POST, 60)], ids=["heads", "bodies"])
async def test_many_requests_are_no_large_head(request_: bytes, num: int) -> None:
    client, stream = Client(), request_ * num
    answers = await client.send(*(stream[at : at + 100] for at in range(0, len(stream), 100)))
    for _ in range(num):
        answers = await client.received()
    assert answers.count(b"HTTP/1.1 200 OK") == num
    assert not client.transport.closed


@pytest.mark.parametrize("sent", [GET[:20], b"POST / HTTP/1.1\r\ncontent-length: 10\r\n\r\nfour"])
async def test_a_request_that_ends_too_early_is_told_so_if_its_client_still_listens(sent: bytes) -> None:
    client = Client()
    await client.send(sent)
    client.connection.eof_received()
    status, error = error_of(await client.received())
    assert status == b"HTTP/1.1 400 Bad Request" and "before the request was complete" in str(error["message"])


async def test_a_client_that_ends_between_requests_gets_nothing_more() -> None:
    client = Client()
    answer = await client.send(GET)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    client.connection.eof_received()
    assert await client.received() == answer


async def test_nothing_is_written_into_an_answer_that_has_begun() -> None:
    client = Client(half)
    begun = await client.send(GET)
    assert begun.endswith(b"so far\r\n")
    assert await client.send(b"garbage\r\n\r\n") == begun
    assert client.transport.closed


async def test_what_follows_a_request_is_not_answered_in_its_place() -> None:
    client = Client()
    assert await client.send(GET, b"garbage\r\n\r\n") == b""
    assert client.transport.closed
