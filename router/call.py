"""One client's request on its way through the policies: the key's limits, the route and its fallbacks, the shadow.

Made by router/api/routed.py for every request about a model; acts through dispatch.py. Invariant: what was reserved of
a key's limits is settled when the last generation of the request has ended; a fallback is taken only before anything
was handed out, and the headers always tell of it.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from typing import Any, TypeVar
from urllib.parse import quote

from protos import inference_pb2 as pb
from router.config import KeyConfig, Reason
from router.dispatch import BYTES_PER_TOKEN, Attempt, Dispatcher, Generation, HandOut, Turn
from router.errors import (
    ContextExceeded,
    ModelFailed,
    Overloaded,
    RateLimited,
    RouterError,
    Unavailable,
    WorkerLost,
)
from router.observe.metrics import Metrics, Watch
from router.observe.traces import UNTRACED, Trace
from router.policy.aliases import Route
from router.policy.balancer import Choice
from router.policy.limits import LimitStore, Verdict, rate_headers
from router.policy.shadow import Shadows
from router.policy.table import Table
from router.rpc.replica import Replica

REASONS: Sequence[tuple[type[RouterError], Reason]] = (
    (ContextExceeded, Reason.CONTEXT),
    (Overloaded, Reason.OVERLOADED),
    (Unavailable, Reason.UNAVAILABLE),
    (ModelFailed, Reason.UNAVAILABLE),
    (WorkerLost, Reason.UNAVAILABLE),
)
_Reply = TypeVar("_Reply")


@dataclass(frozen=True, slots=True)
class Policies:
    """What every call goes through."""

    dispatcher: Dispatcher
    limits: LimitStore
    shadows: Shadows
    metrics: Metrics


@dataclass(slots=True)
class Call:
    """One request of a client."""

    policies: Policies
    table: Table
    key: KeyConfig
    route: Route
    request_id: str = ""
    session: str = ""  # that it belongs to, if it says so
    debug: bool = False  # whether the headers tell how its replica was chosen
    keep_alive: float | None = None  # seconds that the model stays loaded afterwards; None: as configured
    trace: Trace = UNTRACED
    _num_open: int = 0
    _num_used: int = 0
    _num_reserved: int = 0
    _verdict: "asyncio.Future[Verdict] | None" = None
    _attempts: list[Attempt] = field(default_factory=list)  # of the first generation
    _passed: list[tuple[str, Reason]] = field(default_factory=list)  # models that could not serve it, and why
    _watches: list[Watch] = field(default_factory=list)
    _error: str = ""  # the kind of what ended a generation

    def generate(self, messages: Sequence[pb.GenerateRequest]) -> list[Generation]:
        """The generations of the request."""
        for message in messages:
            message.client, message.weight = self.key.name, self.key.weight
        costs = [self._estimate(message) for message in messages]
        total = sum(costs)
        return [
            self._generation(message, cost, total, index)
            for index, (message, cost) in enumerate(zip(messages, costs, strict=True))
        ]

    async def change_place(self, request: pb.ChangePlaceRequest) -> pb.ChangePlaceReply:
        """See Dispatcher.change_place."""
        async with self._within_limits(0):
            return await self.policies.dispatcher.change_place(self._attempt(self.route.model, 0), request)

    async def ask(self, question: Callable[[Replica], Awaitable[_Reply]]) -> _Reply:
        """One reply of the route's model. It counts as a request without tokens."""
        async with self._within_limits(0):
            attempt = self._attempt(self.route.model, 0)
            return await self.policies.dispatcher.ask(attempt, question)

    @property
    def policy(self) -> str:
        """By which its replica is chosen."""
        return self.route.balance or self.table.balance.policy

    @property
    def sampling(self) -> Mapping[str, Any]:
        """What the body leaves to its model. A fallback gets the request as that model would have."""
        return self.table.sampling[self.route.model]

    async def explain(self, message: pb.GenerateRequest) -> Choice | None:
        """Which replica it would go to now; None: none is ready."""
        turn = self._turn(self._estimate(message))
        return await self.policies.dispatcher.explain(self.route.model, message, turn)

    def headers(self) -> Mapping[str, str]:
        """Who served the request, and what is left of the key's limits."""
        headers = rate_headers(self._verdict.result()) if self._verdict and self._verdict.done() else {}
        if self._attempts:
            last = self._attempts[-1]
            headers["x-corral-model"] = _named(last.model)
            headers["x-corral-route"] = self._way()
            if last.replica:
                headers["x-corral-replica"] = _named(last.replica)
            if last.place and last.place.position:
                headers["x-corral-queue-position"] = str(last.place.position)
                headers["x-corral-queue-wait-ms"] = str(math.ceil(last.place.waited * 1000))
            if last.num_moves:
                headers["x-corral-failovers"] = str(last.num_moves)
            if self.debug and last.choice:
                headers["x-corral-route-debug"] = json.dumps(asdict(last.choice))
        return headers

    def facts(self) -> dict[str, Any]:
        """What the log may tell of the request: who served it, counts and times; nothing that the client wrote."""
        facts: dict[str, Any] = {"alias": self.route.alias, "model": self.route.model}
        if self._attempts:
            facts |= {"way": self._way(), "replica": self._attempts[-1].replica}
        if self._watches:
            facts |= _timings(self._watches)
        return facts | ({"error": self._error} if self._error else {})

    def _generation(self, message: pb.GenerateRequest, cost: int, total: int, index: int) -> Generation:
        routed = partial(self._routed, message, self._turn(cost, patient=index > 0), index)
        generation = self.policies.shadows.beside(self.route, message, self.table.limits, routed)
        return partial(self._limited, generation, total) if self._has_limits else generation

    async def _limited(self, generation: Generation, num_tokens: int, hand_out: HandOut) -> None:
        async with self._within_limits(num_tokens):
            await generation(hand_out)

    async def _routed(self, message: pb.GenerateRequest, turn: Turn, index: int, hand_out: HandOut) -> None:
        """The answer of the first model along the route that can give one."""
        metrics = self.policies.metrics
        watch = metrics.watch()
        self._watches.append(watch)
        route: Route | None = self.route

        async def watched(replies: list[pb.GenerateReply]) -> None:
            watch.replies(replies)
            await hand_out(replies)

        try:
            while route is not None:
                attempt = self._attempt(route.model, index)
                metrics.goes_to(watch, route.model)
                try:
                    await self.policies.dispatcher.generate(attempt, message, turn, watched)
                    return
                except RouterError as error:
                    if attempt.is_stranded_by(error):
                        metrics.detours.stranded(attempt.model)
                    route = self._next(route, attempt, error)
                finally:
                    metrics.detours.moved(attempt.model, attempt.num_moves)
                    self._num_used += attempt.num_used
                    watch.waited += attempt.place.waited if attempt.place else 0.0
        except RouterError:
            watch.has_failed = True
            raise
        finally:
            metrics.ended(watch)

    def _next(self, route: Route, attempt: Attempt, error: RouterError) -> Route:
        """The route to go on with. Raises the error, with the headers of the way so far, if there is none."""
        reason = next((reason for kind, reason in REASONS if isinstance(error, kind)), None)
        following = route.after(reason) if reason is not None and not attempt.begun else None
        if reason is None or following is None:
            error.headers = {**self.headers(), **error.headers}
            self._error = type(error).__name__
            raise error
        self._passed.append((route.model, reason))
        self.policies.metrics.detours.fell_back(route.alias, route.model, following.model, reason)
        return following

    def _turn(self, cost: int, *, patient: bool = False) -> Turn:
        return Turn(self.key, self.table.limits, cost, patient, self.keep_alive, self.policy, self.session, self.trace)

    def _attempt(self, model: str, index: int) -> Attempt:
        attempt = Attempt(model, explains=self.debug)
        if index == 0:
            self._attempts.append(attempt)
        return attempt

    def _way(self) -> str:
        """ "chat -> big (overloaded) -> small": the name asked for, and the models it was passed to."""
        passed = [f"{_named(model)} ({reason})" for model, reason in dict(self._passed).items()]
        return " -> ".join([_named(self.route.alias), *passed, _named(self._attempts[-1].model)])

    # ---- the key's limits ----

    def _estimate(self, message: pb.GenerateRequest) -> int:
        answer = message.max_tokens if message.max_tokens >= 0 else self.table.limits.assumed_answer
        return message.ByteSize() // BYTES_PER_TOKEN + answer

    @property
    def _has_limits(self) -> bool:
        key = self.key
        return not (key.concurrent is key.requests_per_minute is key.tokens_per_minute is None)

    @asynccontextmanager
    async def _within_limits(self, num_tokens: int) -> AsyncIterator[None]:
        """Reserves with the first generation that begins, settles with the last that ends. Raises RateLimited."""
        if not self._has_limits:
            yield
            return
        self._num_open += 1
        try:
            await self._reserve(num_tokens)
            yield
        finally:
            self._num_open -= 1
            if not self._num_open:
                await self._settle()

    async def _reserve(self, num_tokens: int) -> None:
        if self._verdict is None:
            self._num_reserved = num_tokens
            self._verdict = asyncio.ensure_future(self.policies.limits.reserve(self.key, num_tokens))
        verdict = await asyncio.shield(self._verdict)
        if verdict.refused is not None:
            raise RateLimited(self.key.name, verdict.refused, verdict.retry_after, rate_headers(verdict))

    async def _settle(self) -> None:
        if self._verdict is not None and (await self._verdict).refused is None:
            await self.policies.limits.settle(self.key, self._num_reserved, self._num_used)


@lru_cache
def _named(name: str) -> str:
    """A configured name fit for a header."""
    return quote(name, safe="/:@+=,;!$&'()*~ ")


def _timings(watches: Sequence[Watch]) -> dict[str, Any]:
    """Counts of all generations of a request, times of its first, in milliseconds."""
    first = watches[0]
    found = {
        "prompt_tokens": sum(watch.num_prompt_tokens for watch in watches),
        "cached_tokens": sum(watch.num_cached_tokens for watch in watches),
        "completion_tokens": sum(watch.num_tokens for watch in watches),
        "queue_ms": round(first.waited * 1000, 3),
    }
    if first.first_token:
        found["first_token_ms"] = round((first.first_token - first.began) * 1000, 3)
    return found | ({"finish": first.finish} if first.finish else {})
