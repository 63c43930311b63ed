"""Real workers of a tiny model: requests go where their beginning is held now, whoever had it computed."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from protos import inference_pb2 as pb
from router.config import ModelConfig, SupervisionConfig
from router.dispatch import Attempt, Dispatcher
from router.fleet.fleet import Fleet
from router.policy.balancer import Choice
from router.rpc.replica import Replica
from tests.router.mocks import until
from tests.router.supervision.test_supervisor import TURN, dispatcher
from tests.router.taking import taken
from tests.tiny_models import MODELS, write_model

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

BY_PREFIX = TURN._replace(cost=240, policy="prefix")
STARTING = 280.0  # seconds; the first start on a machine compiles
LENGTH, CONTEXT, STEP = 200, 512, 16


def asking(first: int, length: int = LENGTH) -> pb.GenerateRequest:
    """A prompt of tokens that differ from those of any other `first` from the first one on."""
    tokens = [first, *(2 + (7 * first + place) % 80 for place in range(length - 1))]
    prompt = pb.Prompt(parts=pb.PromptParts(parts=[pb.PromptPart(tokens=pb.TokenIds(ids=tokens))]))
    return pb.GenerateRequest(prompt=prompt, max_tokens=1, cache_prompt=True)


@asynccontextmanager
async def two_replicas(folder: Path, *more: str) -> AsyncIterator[Fleet]:
    path = write_model(folder / "tiny.gguf", MODELS["llama"])
    arguments = ("--ctx-size", str(CONTEXT), "--parallel", "2", "--threads", "1", *more)
    model = ModelConfig(path, ("a",), arguments, replicas=2)
    async with Fleet([model], SupervisionConfig(first_delay=0.05)) as fleet:
        await both_ready(fleet)
        yield fleet


async def both_ready(fleet: Fleet) -> None:
    async with asyncio.timeout(STARTING):
        while len(fleet.open("a")) < 2:
            await fleet.change()


async def serve(calls: Dispatcher, request: pb.GenerateRequest) -> tuple[str, int]:
    """Which replica answered, and how many tokens it did not have to compute."""
    attempt, num_cached = Attempt("a"), 0
    async with aclosing(taken(calls, attempt, request, BY_PREFIX)) as generation:
        async for replies in generation:
            num_cached += sum(reply.started.num_cached_tokens for reply in replies)
    return str(attempt.replica), num_cached


async def compute(replica: Replica, request: pb.GenerateRequest) -> None:
    """Past the gateway's balance."""
    with replica.calling(request) as call:
        while await call.take():
            pass


async def choice_for(fleet: Fleet, request: pb.GenerateRequest) -> Choice:
    """Of a gateway that has sent nothing anywhere."""
    choice = await dispatcher(fleet).explain("a", request, BY_PREFIX)
    assert choice is not None
    return choice


async def held(fleet: Fleet, request: pb.GenerateRequest) -> list[int]:
    """Tokens that each replica holds."""
    return [score.num_held for score in (await choice_for(fleet, request)).scores]


async def test_a_gateway_that_never_saw_a_prompt_sends_it_to_the_replica_that_holds_it(tmp_path: Path) -> None:
    async with two_replicas(tmp_path) as fleet:
        for number, replica in enumerate(fleet.open("a")):
            await compute(replica, asking(number))
        for number, name in enumerate(("a/0", "a/1")):
            assert await serve(dispatcher(fleet), asking(number)) == (name, 192)
            longer = asking(number, LENGTH + 3 * STEP)
            assert await serve(dispatcher(fleet), longer) == (name, 192)
        assert await held(fleet, asking(5)) == [0, 0]


async def test_a_prefix_that_was_pushed_out_attracts_nobody(tmp_path: Path) -> None:
    async with two_replicas(tmp_path) as fleet:
        calls, first = dispatcher(fleet), fleet.open("a")[0]
        await compute(first, asking(0))
        assert await serve(calls, asking(0)) == ("a/0", 192)
        for number in range(1, 5):
            await compute(first, asking(number))
        assert await held(fleet, asking(0)) == [0, 0]
        await compute(fleet.open("a")[1], asking(0))
        assert await serve(calls, asking(0)) == ("a/1", 192)


async def test_a_restart_forgets_and_what_was_stored_is_found_again(tmp_path: Path) -> None:
    async def kill(fleet: Fleet) -> None:
        """The second replica, once it has stored what it computed."""
        await until(lambda: not store or len(list(tmp_path.glob("store/*/*.kv"))) == LENGTH // STEP)
        pid = fleet.replicas("a")[1].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: len(fleet.open("a")) == 1)
        await both_ready(fleet)

    for store in ((), ("--kv-store", str(tmp_path / "store"))):
        async with two_replicas(tmp_path, *store) as fleet:
            await compute(fleet.open("a")[1], asking(0))
            assert await held(fleet, asking(0)) == [0, 192]
            await kill(fleet)
            assert await held(fleet, asking(0)) == [0, 192 if store else 0]


async def test_a_replica_that_is_stopped_holds_nobody_up(tmp_path: Path) -> None:
    async with two_replicas(tmp_path) as fleet:
        second = fleet.open("a")[1]
        await compute(second, asking(0))
        pid = fleet.replicas("a")[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            second.num_open -= 1  # the least busy one reads the prompt
            choice = await choice_for(fleet, asking(0))
        finally:
            second.num_open += 1
            os.kill(pid, signal.SIGCONT)
        assert choice.name == second.name
        assert [score.num_held for score in choice.scores] == [0, 192]
