import asyncio
from dataclasses import dataclass, field

import pytest

from protos import inference_pb2 as pb
from router.errors import Unavailable
from router.rpc.prefixes import NOTHING, NOTHING_HELD, PATIENCE, Holding, can_reuse, find

pytestmark = pytest.mark.anyio

PROMPT = pb.Prompt(parts=pb.PromptParts(parts=[pb.PromptPart(text="hello")]))
NAMES = (b"one", b"two")


@dataclass
class Replica:
    """Holds so many tokens of any prompt, or answers nothing."""

    name: str
    num_held: int | None
    num_open: int = 0
    asked: list[str] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)

    async def find_prefix(self, request: pb.FindPrefixRequest, deadline: float) -> pb.FindPrefixReply:
        self.deadlines.append(deadline)
        self.asked.append(str(request.WhichOneof("wanted")))
        await asyncio.sleep(0)
        if self.num_held is None:
            raise Unavailable("it does not answer")
        if request.HasField("prompt"):
            names = pb.PrefixNames(names=NAMES)
            return pb.FindPrefixReply(num_held=self.num_held, num_free=48, num_tokens_each=16, names=names)
        assert tuple(request.names.names) == NAMES
        return pb.FindPrefixReply(num_held=self.num_held, num_free=64)


async def test_the_least_busy_replica_reads_the_prompt_and_the_others_look_its_names_up() -> None:
    replicas = [Replica("a", 16, num_open=2), Replica("b", 0, num_open=1), Replica("c", 32, num_open=3)]
    found = await find(PROMPT, replicas)
    assert (found.names, found.num_tokens) == (NAMES, 32)
    assert found.by_replica == {"a": Holding(16, 64), "b": Holding(0, 48), "c": Holding(32, 64)}
    assert [replica.asked for replica in replicas] == [["names"], ["prompt"], ["names"]]


async def test_a_replica_that_does_not_answer_counts_as_one_that_holds_nothing() -> None:
    found = await find(PROMPT, [Replica("a", 16), Replica("b", None)])
    assert found.by_replica == {"a": Holding(16, 48), "b": NOTHING}


async def test_a_long_prompt_may_take_longer_to_read_but_not_to_look_up() -> None:
    reader, other = Replica("a", 16), Replica("b", 0, num_open=1)
    long = pb.Prompt(parts=pb.PromptParts(parts=[pb.PromptPart(text="x" * 1_000_000)]))
    await find(PROMPT, [reader, other])
    await find(long, [reader, other])
    short, longer = reader.deadlines
    assert longer > PATIENCE + 1 > 2 * short > 2 * PATIENCE
    assert other.deadlines == [PATIENCE] * 2


async def test_without_names_nobody_else_is_asked() -> None:
    other = Replica("b", 16, num_open=1)
    assert await find(PROMPT, [Replica("a", None), other]) == NOTHING_HELD
    assert not other.asked


def test_requests_that_compute_everything_again_reuse_nothing() -> None:
    assert can_reuse(pb.GenerateRequest(cache_prompt=True))
    assert not can_reuse(pb.GenerateRequest(cache_prompt=False))
    scored = pb.Logprobs(enabled=True, of_prompt=True)
    assert not can_reuse(pb.GenerateRequest(cache_prompt=True, logprobs=scored))
