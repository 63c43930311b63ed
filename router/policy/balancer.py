"""Which of a model's replicas gets a request. Pure: times and chance come in as arguments.

    every policy     a replica whose circuit is open is left out, unless all are: somebody must be tried
    least-tokens     the least work in front of the request: tokens handed out and not answered yet, and its own
    prefix           the same, less the part of the prompt that the replica holds, or will when it has read what it got;
                     and what that pushes out of its cache, which somebody will want to have computed again
    two-choices      the better of two by chance, so that several gateways do not all run to the same one
    session          the same session, the same replica, in every gateway and without memory (rendezvous hashing)
    round-robin      one after the other

Asked by dispatch.py, which tells it what became of each request. Invariant: given replicas it always chooses one, and
what `begin` adds to a replica's load `end` takes away.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from router.policy.circuit import Circuit
from router.rpc.prefixes import NOTHING, NOTHING_HELD, Holdings

SLOW_START = 10.0  # seconds until a new replica counts in full
LEAST_ROOM = 16  # replicas that are remembered before it matters which of them are there
LEAST_WEIGHT = 0.2  # of one that has just begun


class Candidate(Protocol):
    """A replica that is ready."""

    @property
    def name(self) -> str: ...

    @property
    def since(self) -> float:
        """When it became so; another time is another life."""


class Wish(NamedTuple):
    """What the choice depends on of a request."""

    cost: float  # tokens, as estimated
    session: str = ""
    holdings: Holdings = NOTHING_HELD  # of its prompt, as far as they count


@dataclass(frozen=True, slots=True)
class Score:
    """How a replica looks to a request; the lowest `score` is the best."""

    name: str
    num_outstanding: float  # tokens that the requests it has leave to compute
    num_held: int  # tokens of the prompt that it has computed before
    num_coming: int  # tokens of the prompt that requests it has begin with, too
    num_pushed: float  # tokens of other prompts that it would hold no more
    weight: float  # below 1 while it warms up
    circuit: str
    score: float


@dataclass(frozen=True, slots=True)
class Choice:
    name: str
    policy: str
    scores: tuple[Score, ...]


class Ejections(NamedTuple):
    """How often circuits of a model's replicas have opened, and closed again; a replica may end in between."""

    num_begun: int = 0
    num_ended: int = 0


class _Task(NamedTuple):
    """A request that a replica has."""

    wish: Wish
    work: float  # tokens that it left to compute when it came


@dataclass(slots=True)
class _State:
    """What is remembered of one replica's life."""

    since: float
    circuit: Circuit = field(default_factory=Circuit)
    tasks: list[_Task] = field(default_factory=list)

    @property
    def num_outstanding(self) -> float:
        return sum(task.work for task in self.tasks)

    def num_coming(self, holdings: Holdings) -> int:
        """Tokens that a prompt has in common with the one most like it of the requests it has."""
        shared = (_num_shared(holdings.names, task.wish.holdings.names) for task in self.tasks)
        return max(shared, default=0) * holdings.num_tokens_each if holdings.names else 0


class Balancer:
    """The replicas of one model."""

    def __init__(self, chance: Callable[[], float]) -> None:
        """`chance` draws from [0, 1)."""
        self._chance = chance
        self._states: dict[str, _State] = {}
        self._room = LEAST_ROOM
        self._turn = 0
        self.ejections = Ejections()

    @property
    def is_crowded(self) -> bool:
        """Whether so many replicas are remembered that some of them may have gone: time to `keep` those there are."""
        return len(self._states) > self._room

    def keep(self, names: Collection[str]) -> None:
        """Forgets all other replicas, but for those that have requests."""
        self._states = {name: state for name, state in self._states.items() if name in names or state.tasks}
        self._room = max(2 * len(self._states), LEAST_ROOM)

    def choose(self, candidates: Sequence[Candidate], wish: Wish, policy: str, now: float) -> Choice:
        """One of the candidates, of which there is at least one. Changes nothing; `begin` does."""
        scores = tuple(self._score(candidate, wish, now) for candidate in candidates)
        admitted = [each for each in scores if self._states[each.name].circuit.admits(now)]
        return Choice(self._pick(admitted or scores, wish, policy), policy, scores)

    def begin(self, candidate: Candidate, wish: Wish, now: float) -> None:
        """The replica gets the request."""
        self._turn += 1
        state = self._state(candidate)
        state.tasks.append(_Task(wish, _work(wish, candidate.name, state)))
        state.circuit.begin(now)

    def end(self, candidate: Candidate, wish: Wish, now: float, *, failed: bool | None) -> None:
        """It has the request no more. `failed`: whether by its fault; None: that cannot be said."""
        state = self._states.get(candidate.name)
        if state is None or state.since != candidate.since:
            return
        del state.tasks[next(index for index, task in enumerate(state.tasks) if task.wish is wish)]
        was_ejected = state.circuit.is_ejected
        state.circuit.end(now, failed)
        if state.circuit.is_ejected != was_ejected:
            begun, ended = self.ejections
            self.ejections = Ejections(begun + (not was_ejected), ended + was_ejected)

    def _state(self, candidate: Candidate) -> _State:
        state = self._states.get(candidate.name)
        if state is None or state.since != candidate.since:
            state = self._states[candidate.name] = _State(candidate.since)
        return state

    def _score(self, candidate: Candidate, wish: Wish, now: float) -> Score:
        state = self._state(candidate)
        holding = wish.holdings.by_replica.get(candidate.name, NOTHING)
        num_outstanding, work = state.num_outstanding, _work(wish, candidate.name, state)
        num_pushed = max(work - holding.num_free, 0.0) if wish.holdings.names else 0.0
        weight = min(max((now - candidate.since) / SLOW_START, LEAST_WEIGHT), 1.0)
        return Score(
            candidate.name,
            num_outstanding,
            holding.num_held,
            state.num_coming(wish.holdings),
            num_pushed,
            weight,
            state.circuit.name(now),
            (num_outstanding + work + num_pushed) / weight,
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


def _work(wish: Wish, name: str, state: _State) -> float:
    """Tokens that the replica of that name would have to compute for a request."""
    if wish.holdings is NOTHING_HELD:
        return max(wish.cost, 0.0)
    num_held = wish.holdings.by_replica.get(name, NOTHING).num_held
    num_cached = max(num_held, state.num_coming(wish.holdings))
    return max(wish.cost - num_cached, 0.0)


def _num_shared(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """How many names are the same: a name stands for all before it, so they are up to some index and none after it."""
    return bisect_left(range(min(len(one), len(other))), True, key=lambda index: one[index] != other[index])


def _affinity(session: str, name: str) -> bytes:
    """A number, the same everywhere, that is even over all pairs; the greatest of a session is its replica."""
    return hashlib.blake2b(f"{session}\0{name}".encode("utf-8", "replace"), digest_size=8).digest()
