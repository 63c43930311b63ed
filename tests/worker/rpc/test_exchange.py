"""Many calls over one Serve stream, to the real server with a model that has no weights."""
# ruff: noqa: ASYNC110 (polling with a deadline)

import asyncio
from collections import defaultdict
from contextlib import asynccontextmanager

import grpc
import pytest

from protos import inference_pb2 as pb
from tests.worker.rpc.serving import DEADLINE, Worker, detail_of, generate_request, serving, text, tokens_of

pytestmark = pytest.mark.anyio


class Client:
    """One stream to a worker, and what it has said of each call."""

    def __init__(self, worker: Worker) -> None:
        self.stream = worker.stub.Serve(metadata=worker.metadata, timeout=DEADLINE)
        self.heard: dict[int, list[pb.CallReply]] = defaultdict(list)
        self.num_messages = 0

    async def begin(self, *numbers: int, **fields) -> None:
        begin = [pb.CallBegin(call=number, request=generate_request(**fields)) for number in numbers]
        await self.stream.write(pb.ServeRequest(begin=begin))

    async def cancel(self, *numbers: int) -> None:
        await self.stream.write(pb.ServeRequest(cancel=numbers))

    async def read(self) -> bool:
        message = await self.stream.read()
        if message is grpc.aio.EOF:
            return False
        self.num_messages += 1
        for reply in message.replies:
            self.heard[reply.call].append(reply)
        return True

    async def until_ended(self, *numbers: int) -> None:
        while not all(self.has_ended(number) for number in numbers):
            assert await self.read()

    def has_ended(self, number: int) -> bool:
        return any(each.HasField("error") or each.reply.HasField("finished") for each in self.heard[number])

    def deltas(self, number: int) -> list[pb.Delta]:
        return [each.reply.delta for each in self.heard[number] if each.reply.HasField("delta")]

    def error(self, number: int) -> pb.ErrorDetail:
        return self.heard[number][-1].error


@asynccontextmanager
async def connected(worker: Worker):
    client = Client(worker)
    try:
        yield client
    finally:
        client.stream.cancel()


async def test_each_call_gets_what_it_would_get_alone(worker):
    async with connected(worker) as client:
        await client.begin(1, max_tokens=9)
        await client.begin(2, tokens=(9, 8), max_tokens=5)
        await client.until_ended(1, 2)
    for number, fields in ((1, {"max_tokens": 9}), (2, {"tokens": (9, 8), "max_tokens": 5})):
        events = [reply.WhichOneof("event") for reply in client.heard[number]]
        assert events[0] == "arrived" and set(events[1:]) == {"reply"}
        _, alone, finished = await worker.answer(**fields)
        assert tokens_of(client.deltas(number)) == tokens_of(alone)
        assert text(client.deltas(number)) == text(alone)
        assert client.heard[number][-1].reply.finished.num_completion_tokens == finished.num_completion_tokens


async def test_tokens_of_one_step_share_a_message(worker):
    async with connected(worker) as client:
        await client.begin(1, 2, 3, 4, max_tokens=50)
        await client.until_ended(1, 2, 3, 4)
    num_replies = sum(map(len, client.heard.values()))
    assert client.num_messages < num_replies / 2


async def test_a_call_that_fails_leaves_the_others_alone(worker):
    async with connected(worker) as client:
        await client.begin(1, max_tokens=5)
        await client.begin(2, tokens=[48])
        await client.until_ended(1, 2)
    assert (client.error(2).code, len(tokens_of(client.deltas(1)))) == (pb.INVALID_REQUEST, 5)


async def test_a_cancelled_call_leaves_the_engine_and_the_others_go_on(worker):
    async with connected(worker) as client:
        worker.model.gate.clear()
        await client.begin(1, 2, max_tokens=20)
        await worker.until(lambda stats: stats.num_running == 2 or stats.busy)
        await client.cancel(1)
        await worker.until_open(1)
        worker.model.gate.set()
        await client.until_ended(2)
        assert not client.has_ended(1) and len(tokens_of(client.deltas(2))) == 20
        await worker.until(lambda s: s.num_running == 0 and s.num_free_blocks + s.num_cached_blocks == s.num_blocks)


async def test_the_end_of_the_stream_frees_all_its_calls(worker):
    async with connected(worker) as client:
        await client.begin(1, 2, 3, max_tokens=-1)
        while len(client.heard) < 3:
            await client.read()
    await worker.until_open(0)
    await worker.until(lambda s: s.num_running == 0 and s.num_free_blocks + s.num_cached_blocks == s.num_blocks)


async def test_after_the_last_message_of_a_client_its_calls_go_on_to_their_ends(worker):
    async with connected(worker) as client:
        await client.begin(1, max_tokens=7)
        await client.stream.done_writing()
        while await client.read():
            pass
    assert client.has_ended(1) and len(tokens_of(client.deltas(1))) == 7


async def test_a_number_in_use_ends_the_stream_with_an_error(worker):
    async with connected(worker) as client:
        worker.model.gate.clear()
        await client.begin(1, max_tokens=3)
        await client.begin(1, max_tokens=3)
        worker.model.gate.set()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while await client.read():
                pass
        assert detail_of(caught.value)[1].code == pb.INVALID_REQUEST


async def test_calls_are_refused_one_by_one_while_the_model_loads(tmp_path):
    async with serving(tmp_path, opened=False) as worker, connected(worker) as client:
        await client.begin(1)
        await client.until_ended(1)
        assert client.error(1).code == pb.UNAVAILABLE
        await worker.open()
        await client.begin(2, max_tokens=1)
        await client.until_ended(2)
        assert len(tokens_of(client.deltas(2))) == 1


async def test_a_drained_worker_ends_streams_after_their_calls(worker):
    async with connected(worker) as client:
        worker.model.gate.clear()
        await client.begin(1, max_tokens=4)
        await worker.until(lambda stats: stats.num_running == 1)
        drained = asyncio.create_task(worker.server.drain(DEADLINE))
        while not worker.server._inference._entrance._draining:
            await asyncio.sleep(0.002)
        await client.begin(2)
        await client.until_ended(2)
        assert client.error(2).code == pb.UNAVAILABLE
        worker.model.gate.set()
        while await client.read():
            pass
        assert len(tokens_of(client.deltas(1))) == 4
        await drained


async def test_without_the_token_there_is_no_stream(tmp_path):
    async with serving(tmp_path, token="secret") as worker:
        stream = worker.stub.Serve(metadata=(("corral-token", "wrong"),))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
