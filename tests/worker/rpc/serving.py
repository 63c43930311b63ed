"""The service on a real gRPC server on a unix socket, with a model that has no weights, and a client to it."""
# ruff: noqa: ASYNC110 (polling with a deadline)

import asyncio
from contextlib import asynccontextmanager
from functools import partial

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import inference_pb2 as pb
from protos import inference_pb2_grpc
from tests.worker.fake_model import EOG, FakeDetokenizer, FakeModel, FakeTokenizer
from worker.cache.slot_files import SlotFiles
from worker.context import Capacity
from worker.engine import Engine
from worker.prompt import PromptReader
from worker.rpc.access import Access
from worker.rpc.exchange import post_events
from worker.rpc.loaded import LoadedModel, describe
from worker.rpc.server import Server

DEADLINE = 60
METADATA = {"general.architecture": "fake", "fake.embedding_length": 7, "general.name": "Fake", "general.file_type": 3}


class Template:
    source = "the template"

    def render(self, messages, *, tools, add_generation_prompt, continued, arguments):
        return "".join(m["content"] for m in messages) + ("!" if add_generation_prompt else "") + continued


class Worker:
    """A server in this process and a client to it."""

    def __init__(self, server: Server, listen: str, token: str | None) -> None:
        self.server = server
        self.channel = grpc.aio.insecure_channel(listen, options=(("grpc.use_local_subchannel_pool", 1),))
        self.stub = inference_pb2_grpc.InferenceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)
        self.metadata = (("corral-token", token),) if token else ()
        self.model = FakeModel(64, 4)
        self.engine: Engine | None = None
        self.num_submitted = 0

    async def open(self, slots=None, **changes) -> None:
        settings = {"context_length": 128, "max_running": 4, "max_waiting": 4, "step_tokens": 16} | changes
        post = partial(asyncio.get_running_loop().call_soon_threadsafe, post_events)
        self.engine = Engine(self.model, Capacity(num_blocks=64, block_size=4, **settings), {EOG}, post, print)
        self.engine.start()
        self.engine.submit = self._count(self.engine.submit)
        prompts = PromptReader(FakeTokenizer(), Template())
        facts = describe(METADATA, prompts, context_length=settings["context_length"], num_threads=1)
        facts.num_parallel = settings["max_running"]
        files = SlotFiles(slots, bytes(32)) if slots else None
        await self.server.open(LoadedModel(self.engine, prompts, FakeDetokenizer, facts, files))

    def _count(self, submit):
        def counting(*arguments):
            self.num_submitted += 1
            return submit(*arguments)

        return counting

    def generate(self, **fields):
        return self.stub.Generate(generate_request(**fields), metadata=self.metadata, timeout=DEADLINE)

    async def answer(self, **fields) -> tuple[pb.Started, list[pb.Delta], pb.Finished]:
        replies = [reply async for reply in self.generate(**fields)]
        return replies[0].started, [reply.delta for reply in replies[1:-1]], replies[-1].finished

    async def error(self, **fields) -> tuple[grpc.StatusCode, pb.ErrorDetail]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.answer(**fields)
        return detail_of(caught.value)

    async def until(self, condition) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition(await self.stub.Stats(pb.StatsRequest(), metadata=self.metadata)):
                await asyncio.sleep(0.002)

    async def until_open(self, num_calls: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while self.server._inference._entrance.num_open != num_calls:
                await asyncio.sleep(0.002)

    async def until_submitted(self, num_requests: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while self.num_submitted != num_requests:
                await asyncio.sleep(0.002)

    async def status(self) -> int:
        return (await self.health.Check(health_pb2.HealthCheckRequest(service=""))).status


def detail_of(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, pb.ErrorDetail]:
    detail = next(value for key, value in error.trailing_metadata() if key == "corral-error-bin")
    return error.code(), pb.ErrorDetail.FromString(detail)


def generate_request(tokens=(5, 6, 7), sampling=None, **fields) -> pb.GenerateRequest:
    fields.setdefault("prompt", pb.Prompt(parts=pb.PromptParts(parts=[{"tokens": {"ids": tokens}}])))
    return pb.GenerateRequest(sampling=sampling or sampling_of(), **fields)


def sampling_of(**changes) -> pb.Sampling:
    fields = {"seed": 3, "has_seed": True, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "repeat_penalty": 1}
    return pb.Sampling(**fields | changes)


@asynccontextmanager
async def serving(folder, *, token=None, opened=True, max_open=100, traces=None, **changes):
    server = Server(Access(token), max_open, traces)
    worker = Worker(server, await server.start(f"unix:{folder}/worker.sock"), token)
    try:
        if opened:
            await worker.open(**changes)
        yield worker
    finally:
        worker.model.gate.set()
        await worker.channel.close()
        await server.drain(0)


def text(deltas) -> str:
    return "".join(delta.text for delta in deltas)


def tokens_of(deltas) -> list[int]:
    return [token for delta in deltas for token in delta.tokens]
