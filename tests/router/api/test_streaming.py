"""Streams and clients that leave: over real HTTP with real workers, and at the ASGI border for what takes long."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.types import Message

from protos import inference_pb2 as pb
from router.api.chat import ChatEvents
from router.api.sampling import parameters
from router.api.streaming import EventStream, SendFrame, encode
from router.api.wire import Head
from router.dispatch import HandOut
from router.errors import InvalidRequest, WorkerFailed
from tests.router.api.clients import Gateway, events, until

PLACES = 5  # of the mock worker's model: the four it computes at once, and one more
ENDLESS = "stop_at=1000000 delay=0.01"
SILENT = "stop_at=1000000 delay=1000"
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": ENDLESS}]},
    "/v1/completions": {"prompt": ENDLESS},
    "/completion": {"prompt": ENDLESS},
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("num_choices", [1, 3])
def test_a_client_that_leaves_cancels_its_request(tiny: Gateway, path: str, stream: bool, num_choices: int) -> None:
    with tiny.send(path, **BODIES[path], stream=stream, n=num_choices) as connection:
        until(lambda: tiny.num_running() == num_choices)
        if stream:
            assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
    until(lambda: tiny.num_running() == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_first_text_cancels_its_request(tiny: Gateway, stream: bool) -> None:
    with tiny.send("/completion", prompt=SILENT, stream=stream):
        until(lambda: tiny.num_running() == 1)
    until(lambda: tiny.num_running() == 0)


def test_a_client_that_resets_the_connection_cancels_its_request(tiny: Gateway) -> None:
    connection = tiny.send("/completion", prompt=ENDLESS, stream=True)
    until(lambda: tiny.num_running() == 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.close()
    until(lambda: tiny.num_running() == 0)


def test_the_next_request_is_served_after_many_have_left(tiny: Gateway) -> None:
    connections = [tiny.send("/completion", prompt=ENDLESS, stream=bool(number % 2)) for number in range(20)]
    until(lambda: tiny.num_running() == PLACES)  # the others wait in line
    for connection in connections:
        connection.close()
    until(lambda: tiny.num_running() == 0)
    assert tiny.post("/completion", prompt="stop_at=2").json()["content"] == "w0 w1"


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("end", ["crash_after=2", "end_after=2"])
def test_a_worker_that_dies_in_a_stream_is_told_and_never_a_false_end(tiny: Gateway, path: str, end: str) -> None:
    prompt = f"stop_at=5 delay=0.05 {end}"
    body = {"messages": [{"role": "user", "content": prompt}]} if "chat" in path else {"prompt": prompt}
    until(lambda: tiny.http.get("/ready").status_code == 200)
    answer = tiny.post(path, **body, stream=True)
    assert answer.status_code == 200
    assert "[DONE]" not in answer.text
    told = events(answer.text)
    assert list(told[-1]) == ["error"]
    assert told[-1]["error"]["type"] == "server_error"
    for event in told[:-1]:
        assert event.get("stop") is not True
        assert all(choice["finish_reason"] is None for choice in event.get("choices", ()))
    until(lambda: tiny.http.get("/ready").status_code == 200)
    assert tiny.post("/completion", prompt="stop_at=1").json()["content"] == "w0"


def test_a_worker_that_dies_in_a_whole_answer_is_an_error(tiny: Gateway) -> None:
    answer = tiny.post("/v1/completions", prompt="crash_after=2 delay=0.05")
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    until(lambda: tiny.http.get("/ready").status_code == 200)


def test_one_choice_that_fails_ends_the_whole_stream_with_an_error(tiny: Gateway) -> None:
    answer = tiny.post("/v1/completions", prompt=["stop_at=1", "stop_at=50 delay=0.02 end_after=5"], stream=True)
    told = events(answer.text)
    assert told[-1]["error"]["message"] == "the worker of 'tiny' ended its answer too early"
    assert "[DONE]" not in told


def test_a_silent_stream_is_kept_alive_by_comments(tiny: Gateway) -> None:
    body = {"prompt": SILENT, "stream": True, "sse_ping_interval": 1}
    with tiny.http.stream("POST", "/completion", json=body) as answer:
        lines = answer.iter_lines()
        assert next(line for line in lines if line == ":") == ":"
    until(lambda: tiny.num_running() == 0)


def test_a_connection_serves_the_next_request_after_a_stream(tiny: Gateway) -> None:
    with httpx.Client(base_url=tiny.url, limits=httpx.Limits(max_connections=1), trust_env=False) as client:
        for _ in range(3):
            assert client.post("/completion", json={"prompt": "stop_at=2", "stream": True}).text.endswith("\n\n")


# ---- at the ASGI border -----------------------------------------------------------------------


class Client:
    """An ASGI client: keeps what it is sent, leaves when told, reads only when it likes."""

    def __init__(self, reads: Callable[[bytes], Awaitable[None]] | None = None) -> None:
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self._reads = reads

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if self._reads is not None and message["type"] == "http.response.body":
            await self._reads(message["body"])

    async def call(self, stream: EventStream) -> None:
        async with asyncio.timeout(30):
            await stream({"type": "http"}, self.receive, self.send)


class Source:
    """Frames for a stream; knows whether it was closed."""

    def __init__(self, *frames: bytes, end: Exception | None = None, hang: bool = False) -> None:
        self._frames = frames
        self._end = end
        self._hang = hang
        self.hanging = asyncio.Event()
        self.closed = False

    async def send_frames(self, send: SendFrame) -> None:
        try:
            for frame in self._frames:
                await send(frame)
            if self._hang:
                self.hanging.set()
                await asyncio.Event().wait()
            if self._end is not None:
                raise self._end
        finally:
            self.closed = True


async def never(_: bytes) -> None:
    await asyncio.Event().wait()


def quick(stream: EventStream, *, send_timeout: float = 30.0) -> EventStream:
    stream.tick = 0.01
    stream.send_timeout = send_timeout
    return stream


@pytest.mark.anyio
async def test_nothing_is_sent_when_the_first_reply_is_an_error() -> None:
    client, source = Client(), Source(end=InvalidRequest("no"))
    with pytest.raises(InvalidRequest):
        await client.call(EventStream(source.send_frames))
    assert client.sent == []
    assert source.closed


@pytest.mark.anyio
async def test_an_empty_frame_begins_the_answer_but_is_not_sent() -> None:
    client = Client()
    await client.call(EventStream(Source(b"", b"a").send_frames))
    assert [message.get("body") for message in client.sent] == [None, b"a", b""]
    assert client.sent[-1]["more_body"] is False


@pytest.mark.anyio
async def test_an_error_after_the_first_reply_becomes_the_last_event() -> None:
    client = Client()
    await client.call(EventStream(Source(b"", end=WorkerFailed("gone")).send_frames))
    error = json.loads(client.body.removeprefix(b"data: "))["error"]
    assert error["message"] == "gone"


@pytest.mark.anyio
async def test_a_fault_of_ours_in_a_stream_shows_nothing_of_itself() -> None:
    client = Client()
    await client.call(EventStream(Source(b"a", end=KeyError("secret")).send_frames))
    assert b"secret" not in client.body
    assert b'"type":"server_error"' in client.body


async def chat_frames(*several: list[pb.GenerateReply]) -> list[bytes]:
    async def generation(hand_out: HandOut) -> None:
        for replies in several:
            await hand_out(replies)

    async def send(frame: bytes) -> None:
        frames.append(frame)

    frames: list[bytes] = []
    events = [ChatEvents(Head("m", "id", 1), 0, parameters({}, None, {}))]
    await encode([generation], events, lambda: b"end", send)
    return frames


@pytest.mark.anyio
async def test_replies_that_come_together_are_one_frame_of_the_same_bytes() -> None:
    replies = [
        pb.GenerateReply(started=pb.Started(num_prompt_tokens=1)),
        *(pb.GenerateReply(delta=pb.Delta(text=text, tokens=[1])) for text in ("a", "", '\n"b')),
        pb.GenerateReply(finished=pb.Finished(reason=pb.LENGTH)),
    ]
    apart = await chat_frames(*([reply] for reply in replies))
    together = await chat_frames(replies)
    assert len(apart) == 6 and len(together) == 2
    assert b"".join(together) == b"".join(apart)


@pytest.mark.anyio
async def test_a_client_that_leaves_closes_the_source() -> None:
    client, source = Client(), Source(b"a", hang=True)
    call = asyncio.create_task(client.call(EventStream(source.send_frames)))
    await source.hanging.wait()
    client.left.set()
    await call
    assert source.closed


@pytest.mark.anyio
async def test_a_stopping_server_closes_the_source() -> None:
    client, source = Client(), Source(b"a", hang=True)
    call = asyncio.create_task(client.call(EventStream(source.send_frames)))
    await source.hanging.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert source.closed


@pytest.mark.anyio
async def test_a_reader_that_takes_too_long_is_cut() -> None:
    client, source = Client(reads=never), Source(*[b"a"] * 100)
    await client.call(quick(EventStream(source.send_frames), send_timeout=0.05))
    assert source.closed
    assert client.body == b"a"
    assert client.sent[-1]["more_body"] is True


@pytest.mark.anyio
async def test_a_reader_that_does_not_even_take_comments_is_cut() -> None:
    async def until_comment(body: bytes) -> None:
        if body.startswith(b":"):
            await never(body)

    client, source = Client(reads=until_comment), Source(b"a", hang=True)
    await client.call(quick(EventStream(source.send_frames, 0.02), send_timeout=0.05))
    assert source.closed
    assert client.body == b"a:\n\n"


@pytest.mark.anyio
async def test_comments_come_only_after_the_answer_has_begun() -> None:
    client, source = Client(), Source(hang=True)
    stream = EventStream(source.send_frames, ping_interval=1e-9)
    stream.tick = 0.0
    call = asyncio.create_task(client.call(stream))
    await source.hanging.wait()
    for _ in range(100):  # turns of the watch
        await asyncio.sleep(0)
    assert client.sent == []
    client.left.set()
    await call
