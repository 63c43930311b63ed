"""From a model's name to a replica's replies: wait for a place, choose a replica, call it, go on with another.

Called by call.py, which decides which model, and by router/api for questions about models; knows neither HTTP nor
processes itself. Invariant: whatever happens to workers, the replies of one generation are one answer or end with an
error; and a request holds its model's place until it has ended.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from protos import inference_pb2 as pb
from router.config import BALANCING, KeyConfig, LimitsConfig
from router.errors import InvalidRequest, RequestPoisonous, RouterError, WorkerFailed, WorkerLost
from router.fleet.fleet import Fleet
from router.fleet.lifecycle import ModelStatus
from router.fleet.totals import total
from router.observe.traces import UNTRACED, Trace
from router.policy.admission import Admission, Place
from router.policy.balancer import Balancer, Choice, Ejections, Wish
from router.policy.failover import Journal, blames_replica
from router.policy.fairqueue import ANY_SLOT, USUAL_URGENCY
from router.remotes.likeness import alike, can_go_on
from router.rpc import places
from router.rpc.prefixes import NOTHING_HELD, Holdings, can_reuse, find
from router.rpc.replica import Replica
from router.supervision.tail import Tail

log = logging.getLogger("corral.dispatch")

# Takes replies of one generation, each time as many as have come. What it raises ends the generation; no RouterErrors.
HandOut = Callable[[list[pb.GenerateReply]], Awaitable[None]]
Generation = Callable[[HandOut], Coroutine[Any, Any, None]]  # one that begins when it is awaited
_Reply = TypeVar("_Reply")
_NO_REQUEST = pb.GenerateRequest()
BYTES_PER_TOKEN = 4  # of a request, for estimates: most of its bytes are prompt
UNDESCRIBED_PLACES = 4  # of a model that has not said yet how many requests it computes at once


class Turn(NamedTuple):
    """With whose rights and under which limits a request waits for its model."""

    key: KeyConfig
    limits: LimitsConfig
    cost: float  # its estimate in tokens
    patient: bool = False  # it may join even a full line
    keep_alive: float | None = None  # seconds that its model stays loaded afterwards; None: as configured
    policy: str = BALANCING[0]  # by which its replica is chosen
    session: str = ""  # that it belongs to
    trace: Trace = UNTRACED
    is_probe: bool = False  # it neither loads its model nor counts as use of it

    def wish(self, request: pb.GenerateRequest, holdings: Holdings = NOTHING_HELD) -> Wish:
        """Where the prompt's beginnings have names, its length is known and need not be estimated."""
        if not holdings.names:
            return Wish(self.cost, self.session)
        num_known = holdings.num_tokens - request.ByteSize() // BYTES_PER_TOKEN
        return Wish(max(self.cost + num_known, 0.0), self.session, holdings)

    def weighs_prefixes(self, request: pb.GenerateRequest) -> bool:
        """Whether it matters what replicas hold of the prompt."""
        return self.policy == "prefix" and can_reuse(request)


@dataclass(slots=True)
class Attempt:
    """What became of one attempt to have a model answer; filled in as it goes."""

    model: str
    place: Place | None = None
    replica: str | None = None  # the last one that was called
    explains: bool = False  # whether `choice` is wanted even where there is none to make
    choice: Choice | None = None  # by which it was
    num_moves: int = 0  # from one replica to another
    journal: Journal | None = None  # of the answer, once its model has a place for it

    @property
    def begun(self) -> bool:
        """Whether any of the answer was handed out."""
        return self.journal is not None and self.journal.has_begun

    def is_stranded_by(self, error: RouterError) -> bool:
        """Whether it ended with this error because it lost its replica and no other one could go on."""
        num_left = self.journal.num_moves if self.journal is not None else 0
        return num_left > self.num_moves or isinstance(error, WorkerFailed | RequestPoisonous)

    @property
    def num_used(self) -> int:
        """Tokens of prompt and answer."""
        return self.journal.num_tokens if self.journal is not None else 0


class _Charge:
    """A replica has a request; how that ends is what the balancer learns of it."""

    __slots__ = ("_balancer", "_replica", "_wish")

    def __init__(self, balancer: Balancer, replica: Replica, wish: Wish) -> None:
        self._balancer, self._replica, self._wish = balancer, replica, wish

    def __enter__(self) -> None:
        self._balancer.begin(self._replica, self._wish, time.monotonic())

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        failed = False if error is None else blames_replica(error) if isinstance(error, RouterError) else None
        self._balancer.end(self._replica, self._wish, time.monotonic(), failed=failed)


class Dispatcher:
    """Admits, chooses a replica, calls it, and another one if it is lost."""

    def __init__(self, fleet: Fleet, admission: Admission) -> None:
        self._fleet = fleet
        self._admission = admission
        self._balancers: dict[str, Balancer] = {}

    async def generate(self, attempt: Attempt, request: pb.GenerateRequest, turn: Turn, hand_out: HandOut) -> None:
        """Hands out Started, any number of Delta, Finished; by as many replicas as it takes.

        Cancelling it cancels the request. Raises RouterError.
        """
        journal = attempt.journal = Journal(request, time.monotonic)
        left: list[Replica] = []  # that could not bring it to its end
        heard: list[Replica] = []  # those of them of which something was handed out
        used = nullcontext() if turn.is_probe else self._fleet.using(attempt.model, turn.keep_alive)
        with used, await self._place(attempt, request, turn) as place:
            if place.position:
                turn.trace.waited("queue", place.waited)
            while True:
                replica, wish = await self._chosen(attempt, request, turn, left, heard)
                attempt.num_moves = len(left)
                asked = journal.request()
                try:
                    with (
                        _Charge(self._balancer(replica.model), replica, wish),
                        turn.trace.attempt(replica.name, asked),
                        replica.calling(places.own(asked, replica.place_numbers)) as call,
                    ):
                        while replies := await call.take():
                            await hand_out(places.everyones(journal.recorded(replies), replica.place_numbers))
                    return
                except RouterError as error:
                    journal.move(error)
                    log.warning("%s leaves %s: %s", request.request_id, replica.name, error.message)
                left.append(replica)
                if journal.has_begun:
                    heard.append(replica)

    async def _place(self, attempt: Attempt, request: pb.GenerateRequest, turn: Turn) -> Place:
        """A place of the model, whose line learns in the end how many tokens were used."""
        capacity = turn.limits.in_flight or self._places(attempt.model)
        place = attempt.place = await self._admission.place(
            attempt.model, turn.key, turn.cost, capacity, turn.limits, lambda: attempt.num_used, patient=turn.patient,
            urgency=request.priority if request.HasField("priority") else USUAL_URGENCY,
            slot=request.place if request.HasField("place") else ANY_SLOT,
        )  # fmt: skip
        return place

    async def _chosen(
        self,
        attempt: Attempt,
        request: pb.GenerateRequest,
        turn: Turn,
        left: Collection[Replica],
        heard: Collection[Replica],
    ) -> tuple[Replica, Wish]:
        """The replica that is to go on with the request, and what it will be charged with. Raises RouterError."""
        wish = await self._wish(attempt.model, request, turn, left)
        began = time.monotonic()
        replica = await self._choose(attempt, wish, turn.policy, left, request, heard)
        turn.trace.waited("replica", time.monotonic() - began)
        return replica, wish

    async def _wish(self, model: str, request: pb.GenerateRequest, turn: Turn, left: Collection[Replica]) -> Wish:
        """Asks what the replicas hold of the prompt only where there is a choice. Raises RouterError as `_choose`."""
        if not turn.weighs_prefixes(request):
            return turn.wish(request)
        replicas = await self._fleet.ready(model, left)
        return turn.wish(request, await find(request.prompt, replicas) if len(replicas) > 1 else NOTHING_HELD)

    async def _choose(
        self,
        attempt: Attempt,
        wish: Wish,
        policy: str,
        left: Collection[Replica] = (),
        request: pb.GenerateRequest = _NO_REQUEST,
        heard: Collection[Replica] = (),
    ) -> Replica:
        """A replica that is ready, was not left and can go on with what was heard, waiting for one a bounded time.

        Raises RouterError.

        It is the one with the place that the request would like, if that can be called.
        """
        ready = alike([each for each in await self._fleet.ready(attempt.model, left) if _continues(each, heard)])
        if not ready:
            raise WorkerFailed(f"no worker can go on: another model is served as '{attempt.model}' by now")
        replicas = places.wished(ready, request)
        if len(replicas) == 1 and not attempt.explains:
            attempt.replica = replicas[0].name
            return replicas[0]
        choice = self._balancer(attempt.model).choose(replicas, wish, policy, time.monotonic())
        attempt.choice, attempt.replica = choice, choice.name
        return next(replica for replica in replicas if replica.name == choice.name)

    def _balancer(self, model: str) -> Balancer:
        if model not in self._balancers:
            self._balancers[model] = Balancer(random.random)
        balancer = self._balancers[model]
        if balancer.is_crowded:
            balancer.keep({each.name for each in self._fleet.replicas(model)})
        return balancer

    def can_spare(self, model: str) -> bool:
        """Whether the model is loaded and nobody waits for it."""
        return bool(self._fleet.open(model)) and self._admission.is_idle(model)

    def ejections(self, model: str) -> Ejections:
        """Of the model's replicas by their circuits, and their returns."""
        balancer = self._balancers.get(model)
        return balancer.ejections if balancer is not None else Ejections()

    def num_waiting(self, model: str) -> int:
        """Requests in the model's line."""
        return self._admission.num_waiting(model)

    async def ask(self, attempt: Attempt, question: Callable[[Replica], Awaitable[_Reply]]) -> _Reply:
        """One reply; when a worker dies under the question, another one is asked."""
        with self._fleet.using(attempt.model):
            replica = await self._choose(attempt, Wish(0.0), BALANCING[0])
            try:
                return await question(replica)
            except WorkerLost:
                return await question(await self._choose(attempt, Wish(0.0), BALANCING[0], (replica,)))

    async def explain(self, model: str, request: pb.GenerateRequest, turn: Turn) -> Choice | None:
        """The choice that would be made now; None: no replica is ready."""
        replicas = alike(self._fleet.open(model))
        if not replicas:
            return None
        weighed = turn.weighs_prefixes(request)
        wish = turn.wish(request, await find(request.prompt, replicas) if weighed else NOTHING_HELD)
        return self._balancer(model).choose(replicas, wish, turn.policy, time.monotonic())

    async def stats(self, model: str) -> pb.StatsReply:
        """Of all its replicas together, but for those lost meanwhile, with the counts of all there ever were.

        Replicas that drain belong to them, but not alone. Never loads the model for that.
        """
        await self._fleet.ready(model)
        asked = [replica.stats(pb.StatsRequest()) for replica in self._fleet.living(model)]
        replies = await asyncio.gather(*asked, return_exceptions=True)
        told = [reply for reply in replies if isinstance(reply, pb.StatsReply)]
        for reply in replies:
            if isinstance(reply, BaseException) and not (told and isinstance(reply, WorkerLost)):
                raise reply
        result = total(told)
        self._fleet.tally(model).put_into(result)
        return result

    async def places(self, model: str) -> list[pb.Place]:
        """Of all its replicas, as places.py numbers them, but for those lost meanwhile. Never loads the model."""
        replicas = await self._fleet.ready(model)
        replies = await asyncio.gather(*(each.places(pb.PlacesRequest()) for each in replicas), return_exceptions=True)
        found: list[pb.Place] = []
        for replica, reply in zip(replicas, replies, strict=True):
            if isinstance(reply, BaseException):
                if not isinstance(reply, WorkerLost):
                    raise reply
                continue
            for place in reply.places:
                place.number += replica.place_numbers.start
            found += reply.places
        return found

    async def change_place(self, attempt: Attempt, request: pb.ChangePlaceRequest) -> pb.ChangePlaceReply:
        """By the replica that has the place. Raises InvalidRequest where none has."""
        with self._fleet.using(attempt.model):
            with_place = places.having(await self._fleet.ready(attempt.model), request.number)
            if not with_place:
                raise InvalidRequest("Invalid slot ID")
            replica = with_place[0]
            attempt.replica = replica.name
            number = request.number - replica.place_numbers.start
            own = pb.ChangePlaceRequest(number=number, action=request.action, filename=request.filename)
            return await replica.change_place(own)

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


def _continues(replica: Replica, heard: Collection[Replica]) -> bool:
    return all(can_go_on(replica, other) for other in heard)
