"""Which of a model's replicas gets a request. Pure: times and chance come in as arguments.

    every policy     a replica whose circuit is open is left out, unless all are: somebody must be tried
    least-tokens     the least work in front of the request: tokens handed out and not answered yet, and its own
    prefix           the same, less the part of the prompt that the replica has read before
    two-choices      the better of two by chance, so that several gateways do not all run to the same one
    session          the same session, the same replica, in every gateway and without memory (rendezvous hashing)
    round-robin      one after the other

Asked by dispatch.py, which tells it what became of each request. Invariant: given replicas it always chooses one, and
what `begin` adds to a replica's load `end` takes away.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from router.circuit import Circuit
from router.prefixes import PREFIX_BYTES

MAX_PREFIXES = 1 << 16  # remembered of one replica
BYTES_PER_TOKEN = 4
SLOW_START = 10.0  # seconds until a new replica counts in full
LEAST_WEIGHT = 0.2  # of one that has just begun


class Candidate(Protocol):
    """A replica that is ready."""

    @property
    def name(self) -> str: ...

    @property
    def since(self) -> float:
        """When it became so; another time is another life."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the choice depends on of a request."""

    cost: float  # tokens, as estimated
    session: str = ""
    prefixes: tuple[bytes, ...] = ()  # digests of ever longer beginnings of the prompt, see prefixes.py


@dataclass(frozen=True, slots=True)
class Score:
    """How a replica looks to a request; the lowest `score` is the best."""

    name: str
    num_outstanding: float  # tokens of requests it has
    num_cached: float  # tokens of the prompt it has read before
    weight: float  # below 1 while it warms up
    circuit: str
    score: float


@dataclass(frozen=True, slots=True)
class Choice:
    name: str
    policy: str
    scores: tuple[Score, ...]


@dataclass(slots=True)
class _State:
    """What is remembered of one replica's life."""

    since: float
    circuit: Circuit = field(default_factory=Circuit)
    num_outstanding: float = 0.0
    prefixes: "OrderedDict[bytes, None]" = field(default_factory=OrderedDict)

    def remember(self, prefixes: Sequence[bytes]) -> None:
        for prefix in prefixes:
            self.prefixes[prefix] = None
            self.prefixes.move_to_end(prefix)
        while len(self.prefixes) > MAX_PREFIXES:
            self.prefixes.popitem(last=False)

    def num_cached(self, prefixes: Sequence[bytes]) -> float:
        """Tokens of the longest beginning it knows."""
        known = (index for index in range(len(prefixes), 0, -1) if prefixes[index - 1] in self.prefixes)
        return next(known, 0) * PREFIX_BYTES / BYTES_PER_TOKEN


class Balancer:
    """The replicas of one model."""

    def __init__(self, chance: Callable[[], float]) -> None:
        """`chance` draws from [0, 1)."""
        self._chance = chance
        self._states: dict[str, _State] = {}
        self._turn = 0

    def choose(self, candidates: Sequence[Candidate], wish: Wish, policy: str, now: float) -> Choice:
        """One of the candidates, of which there is at least one. Changes nothing; `begin` does."""
        scores = tuple(self._score(candidate, wish, policy, now) for candidate in candidates)
        admitted = [each for each in scores if self._states[each.name].circuit.admits(now)]
        return Choice(self._pick(admitted or scores, wish, policy), policy, scores)

    def begin(self, candidate: Candidate, wish: Wish, now: float) -> None:
        """The replica gets the request."""
        self._turn += 1
        state = self._state(candidate)
        state.num_outstanding += wish.cost
        state.remember(wish.prefixes)
        state.circuit.begin(now)

    def end(self, candidate: Candidate, wish: Wish, now: float, *, failed: bool | None) -> None:
        """It has the request no more. `failed`: whether by its fault; None: that cannot be said."""
        state = self._states.get(candidate.name)
        if state is None or state.since != candidate.since:
            return
        state.num_outstanding = max(state.num_outstanding - wish.cost, 0.0)
        state.circuit.end(now, failed)

    def _state(self, candidate: Candidate) -> _State:
        state = self._states.get(candidate.name)
        if state is None or state.since != candidate.since:
            state = self._states[candidate.name] = _State(candidate.since)
        return state

    def _score(self, candidate: Candidate, wish: Wish, policy: str, now: float) -> Score:
        state = self._state(candidate)
        num_cached = min(state.num_cached(wish.prefixes), wish.cost) if policy == "prefix" else 0.0
        weight = min(max((now - candidate.since) / SLOW_START, LEAST_WEIGHT), 1.0)
        return Score(
            candidate.name,
            state.num_outstanding,
            num_cached,
            weight,
            state.circuit.name(now),
            (state.num_outstanding + wish.cost - num_cached) / weight,
        )

    def _pick(self, scores: Sequence[Score], wish: Wish, policy: str) -> str:
        if policy == "round-robin":
            return scores[self._turn % len(scores)].name
        if policy == "session" and wish.session:
            return max(scores, key=lambda each: _affinity(wish.session, each.name)).name
        if policy == "two-choices":
            scores = self._two(scores)
        best = min(each.score for each in scores)
        equals = [each for each in scores if each.score == best]
        return equals[self._turn % len(equals)].name

    def _two(self, scores: Sequence[Score]) -> Sequence[Score]:
        if len(scores) <= 2:
            return scores
        first = int(self._chance() * len(scores))
        second = int(self._chance() * (len(scores) - 1))
        return [scores[first], scores[second + (second >= first)]]


def _affinity(session: str, name: str) -> bytes:
    """A number, the same everywhere, that is even over all pairs; the greatest of a session is its replica."""
    return hashlib.blake2b(f"{session}\0{name}".encode("utf-8", "replace"), digest_size=8).digest()
