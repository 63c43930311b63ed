"""From a model's name to a replica's replies: wait for a place, wait for a ready replica, call it.

Called by call.py, which decides which model, and by router/api for questions about models; knows neither HTTP nor
processes itself. Invariant: a request goes to a second worker only while nothing of the first one's answer has been
handed out, and holds its model's place until it has ended.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from protos import inference_pb2 as pb
from router.admission import Admission, Place
from router.config import KeyConfig, LimitsConfig
from router.errors import WorkerLost
from router.replica import Replica
from router.supervisor import Fleet, ModelStatus
from router.tail import Tail

_Reply = TypeVar("_Reply")
UNDESCRIBED_PLACES = 4  # of a model that has not said yet how many requests it computes at once


@dataclass(frozen=True, slots=True)
class Turn:
    """With whose rights and under which limits a request waits for its model."""

    key: KeyConfig
    limits: LimitsConfig
    cost: float  # its estimate in tokens
    patient: bool = False  # it may join even a full line


@dataclass(slots=True)
class Attempt:
    """What became of one attempt to have a model answer; filled in as it goes."""

    model: str
    place: Place | None = None
    replica: str | None = None
    num_prompt_tokens: int = 0
    num_tokens: int = 0  # of the answer
    begun: bool = False  # whether any of the answer was handed out

    def observe(self, reply: pb.GenerateReply) -> None:
        self.begun = True
        if reply.HasField("delta"):
            self.num_tokens += len(reply.delta.tokens)
        elif reply.HasField("started"):
            self.num_prompt_tokens = reply.started.num_prompt_tokens
        else:
            self.num_tokens = reply.finished.num_completion_tokens

    @property
    def num_used(self) -> int:
        """Tokens of prompt and answer."""
        return self.num_prompt_tokens + self.num_tokens


class Dispatcher:
    """Admits, waits for a replica, calls it."""

    def __init__(self, fleet: Fleet, admission: Admission) -> None:
        self._fleet = fleet
        self._admission = admission

    async def generate(
        self, attempt: Attempt, request: pb.GenerateRequest, turn: Turn
    ) -> AsyncGenerator[pb.GenerateReply, None]:
        """Started, any number of Delta, Finished. Closing the generator cancels the request. Raises RouterError."""
        capacity = turn.limits.in_flight or self._places(attempt.model)
        async with self._admission.place(
            attempt.model, turn.key, turn.cost, capacity, turn.limits, patient=turn.patient
        ) as attempt.place:
            try:
                async with aclosing(self._replies(attempt, request)) as replies:
                    async for reply in replies:
                        attempt.observe(reply)
                        yield reply
            finally:
                attempt.place.num_tokens = attempt.num_used

    async def _replies(self, attempt: Attempt, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateReply, None]:
        """One replica's answer, or a second one's if the first is lost before it said anything."""
        replica = await self._fleet.ready(attempt.model)
        attempt.replica = replica.name
        try:
            async with aclosing(replica.generate(request)) as replies:
                async for reply in replies:
                    yield reply
            return
        except WorkerLost:
            if attempt.begun:
                raise
        replica = await self._fleet.ready(attempt.model, lost=replica)
        attempt.replica = replica.name
        async with aclosing(replica.generate(request)) as replies:
            async for reply in replies:
                yield reply

    def is_idle(self, model: str) -> bool:
        """Whether nobody waits for the model."""
        return self._admission.is_idle(model)

    def num_waiting(self, model: str) -> int:
        """Requests in the model's line."""
        return self._admission.num_waiting(model)

    async def ask(self, attempt: Attempt, question: Callable[[Replica], Awaitable[_Reply]]) -> _Reply:
        """One reply; a worker that died under the question is asked again once it is back."""
        replica = await self._fleet.ready(attempt.model)
        attempt.replica = replica.name
        try:
            return await question(replica)
        except WorkerLost:
            return await question(await self._fleet.ready(attempt.model, lost=replica))

    async def stats(self, model: str) -> pb.StatsReply:
        return await self.ask(Attempt(model), lambda replica: replica.stats(pb.StatsRequest()))

    async def places(self, model: str) -> pb.PlacesReply:
        return await self.ask(Attempt(model), lambda replica: replica.places(pb.PlacesRequest()))

    def models(self) -> Sequence[ModelStatus]:
        """What is known of every configured model, in the order of configuration."""
        return self._fleet.models()

    def output(self, model: str) -> Tail:
        """The last lines of the model's workers."""
        return self._fleet.output(model)

    def check_health(self) -> None:
        """Returns if the gateway can answer; raises ModelLoading or Unavailable if not."""
        self._fleet.check_health()

    def check_ready(self) -> None:
        """As check_health, and also raises Unavailable when the gateway is draining."""
        self._fleet.check_ready()

    def _places(self, model: str) -> int:
        """As many as it computes at once, and one more, so that none stands empty between two requests."""
        return (self._fleet.num_parallel(model) or UNDESCRIBED_PLACES) + 1
