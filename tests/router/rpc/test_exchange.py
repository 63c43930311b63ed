"""The gateway's end of a Serve stream, against a worker that does as it is told."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from protos import inference_pb2 as pb
from router import errors
from router.rpc import exchange
from router.rpc.exchange import Call, Exchange

pytestmark = pytest.mark.anyio


class Stream:
    """A call of Serve: what is written to it, and what it is told to say."""

    def __init__(self) -> None:
        self.written: asyncio.Queue[pb.ServeRequest] = asyncio.Queue()
        self.replies: asyncio.Queue[pb.ServeReply | Exception | None] = asyncio.Queue()

    async def write(self, message: pb.ServeRequest) -> None:
        self.written.put_nowait(message)

    async def __aiter__(self) -> AsyncIterator[pb.ServeReply]:
        while (reply := await self.replies.get()) is not None:
            if isinstance(reply, Exception):
                raise reply
            yield reply

    def say(self, *replies: pb.CallReply) -> None:
        self.replies.put_nowait(pb.ServeReply(replies=replies))

    def end(self) -> None:
        self.replies.put_nowait(None)

    def cancel(self) -> None:
        self.end()


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
async def opened(stream: Stream) -> AsyncIterator[Exchange]:
    opened = Exchange("m", stream)
    yield opened
    opened.close()


def token(call: int, *tokens: int) -> pb.CallReply:
    delta = pb.Delta(text="".join(f"w{each} " for each in tokens), tokens=tokens, num_draws=tokens[-1] + 1)
    return pb.CallReply(call=call, reply=pb.GenerateReply(delta=delta))


def finished(call: int) -> pb.CallReply:
    return pb.CallReply(call=call, reply=pb.GenerateReply(finished=pb.Finished(num_completion_tokens=1)))


async def rest(call: Call) -> list[pb.GenerateReply]:
    replies = []
    while more := await call.take():
        replies += more
    return replies


async def test_requests_of_the_same_moment_share_a_message(opened: Exchange, stream: Stream) -> None:
    for name in "abc":
        opened.begin(pb.GenerateRequest(request_id=name))
    message = await stream.written.get()
    assert [begin.request.request_id for begin in message.begin] == ["a", "b", "c"]
    assert len({begin.call for begin in message.begin}) == 3


async def test_large_requests_do_not_make_one_message_that_is_too_large(opened: Exchange, stream: Stream) -> None:
    for _ in range(3):
        opened.begin(pb.GenerateRequest(request_id="x" * (1 << 20)))
    assert [len((await stream.written.get()).begin) for _ in range(3)] == [1, 1, 1]


async def test_a_request_that_no_message_can_hold_fails_alone(
    opened: Exchange, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "MAX_REQUEST_BYTES", 100)
    with pytest.raises(errors.BodyTooLarge):
        opened.begin(pb.GenerateRequest(request_id="x" * 101))
    opened.begin(pb.GenerateRequest(request_id="small"))
    assert (await stream.written.get()).begin[0].request.request_id == "small"


async def test_a_call_that_nobody_reads_holds_up_nobody_and_keeps_no_more_than_its_answer(
    opened: Exchange, stream: Stream
) -> None:
    slow, quick = opened.begin(pb.GenerateRequest()), opened.begin(pb.GenerateRequest())
    for number in range(1000):
        stream.say(token(1, number))
    stream.say(finished(1), token(2, 7), finished(2))
    assert [reply.WhichOneof("event") for reply in await rest(quick)] == ["delta", "finished"]
    kept = await rest(slow)
    assert len(kept) < 50
    assert [each for reply in kept for each in reply.delta.tokens] == list(range(1000))
    assert "".join(reply.delta.text for reply in kept) == "".join(f"w{number} " for number in range(1000))
    assert kept[-2].delta.num_draws == 1000 and kept[-1].HasField("finished")


async def test_a_broken_stream_loses_every_open_call_and_tells_which_had_arrived(
    opened: Exchange, stream: Stream
) -> None:
    arrived, other = opened.begin(pb.GenerateRequest()), opened.begin(pb.GenerateRequest())
    stream.say(pb.CallReply(call=1, arrived=pb.Arrived()), token(1, 0))
    stream.end()
    assert len(await arrived.take()) == 1  # what was said before is good
    for call, had_request in ((arrived, True), (other, False)):
        with pytest.raises(errors.WorkerLost) as lost:
            await call.take()
        assert lost.value.had_request == had_request
    assert not opened.is_open


async def test_a_reply_without_an_event_is_an_answer_without_its_end(opened: Exchange, stream: Stream) -> None:
    call = opened.begin(pb.GenerateRequest())
    stream.say(pb.CallReply(call=1))
    with pytest.raises(errors.WorkerFailed, match="too early"):
        await call.take()


async def test_a_call_that_is_cancelled_is_taken_back_and_no_longer_heard(opened: Exchange, stream: Stream) -> None:
    call, other = opened.begin(pb.GenerateRequest()), opened.begin(pb.GenerateRequest())
    await stream.written.get()
    call.cancel()
    assert list((await stream.written.get()).cancel) == [1]
    stream.say(token(1, 0), finished(2))
    assert await rest(other)
    assert opened.is_idle


async def test_an_ended_call_is_not_cancelled(opened: Exchange, stream: Stream) -> None:
    call = opened.begin(pb.GenerateRequest())
    await stream.written.get()
    stream.say(finished(1))
    await rest(call)
    call.cancel()
    opened.begin(pb.GenerateRequest())
    assert not (await stream.written.get()).cancel


async def test_a_status_without_words_is_the_failure_of_every_call(opened: Exchange, stream: Stream) -> None:
    call = opened.begin(pb.GenerateRequest())
    nothing = grpc.aio.Metadata()
    stream.replies.put_nowait(grpc.aio.AioRpcError(grpc.StatusCode.UNIMPLEMENTED, nothing, nothing))
    with pytest.raises(errors.WorkerFailed, match="UNIMPLEMENTED"):
        await call.take()
