"""What the replicas of a model hold of a prompt: one of them names its beginnings, the others look the names up.

Asked by dispatch.py for requests that are balanced by prefix. The gateway remembers nothing of what was sent where, so
what a replica has pushed out, lost with its life, read from disk or computed for another gateway is seen as it is.
Invariant: it never fails a request; a replica that does not answer in time counts as one that holds nothing.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from protos import inference_pb2 as pb
from router.errors import RouterError

PATIENCE = 0.25  # seconds for an answer
READING = 4e-6  # seconds more for each byte of a prompt, which has to become tokens


class Holder(Protocol):
    """What is needed of replica.Replica."""

    @property
    def name(self) -> str: ...

    @property
    def num_open(self) -> int: ...

    async def find_prefix(self, request: pb.FindPrefixRequest, deadline: float) -> pb.FindPrefixReply: ...


@dataclass(frozen=True, slots=True)
class Holding:
    """What a replica says of a prompt, in tokens."""

    num_held: int = 0  # that it need not compute
    num_free: int = 0  # that it has room for beside all that it holds


@dataclass(frozen=True, slots=True)
class Holdings:
    """A prompt's beginnings, and what each replica says of it."""

    names: tuple[bytes, ...] = ()  # of ever longer beginnings
    num_tokens_each: int = 0  # by which they get longer
    by_replica: Mapping[str, Holding] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Of the prompt, as far as it can be held."""
        return len(self.names) * self.num_tokens_each


NOTHING = Holding()
NOTHING_HELD = Holdings()


def can_reuse(request: pb.GenerateRequest) -> bool:
    """Whether the request takes what was computed before."""
    return request.cache_prompt and not request.logprobs.of_prompt


async def find(prompt: pb.Prompt, replicas: Sequence[Holder]) -> Holdings:
    """Asks the replica with the fewest calls to name the prompt's beginnings, then all others at once."""
    first = min(replicas, key=lambda replica: replica.num_open)
    found = await _ask(first, pb.FindPrefixRequest(prompt=prompt), PATIENCE + READING * prompt.ByteSize())
    if not found.names.names:
        return NOTHING_HELD
    others = [replica for replica in replicas if replica is not first]
    request = pb.FindPrefixRequest(names=found.names)
    replies = await asyncio.gather(*(_ask(replica, request, PATIENCE) for replica in others))
    told = zip((first, *others), (found, *replies), strict=True)
    by_replica = {replica.name: Holding(reply.num_held, reply.num_free) for replica, reply in told}
    return Holdings(tuple(found.names.names), found.num_tokens_each, by_replica)


async def _ask(replica: Holder, request: pb.FindPrefixRequest, deadline: float) -> pb.FindPrefixReply:
    try:
        return await replica.find_prefix(request, deadline)
    except RouterError:
        return pb.FindPrefixReply()
