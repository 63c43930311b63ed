"""What state a model is in, and which models are to be loaded and unloaded next. Pure.

    UNLOADED ──wanted, and there is room──> LOADING ──serving──> READY ──exit──> CRASHED ──delay──> LOADING
        ^                                      └──no good, or crashed too often──> FAILED ──asked again──> LOADING
        └────────────── DRAINING <── idle too long, pushed out, told to go ── READY, CRASHED

Fleet calls `plan` after every change and carries out what it says; supervisor.WorkerProcess has the same states, one by
one. Invariant: those that wait for room get it in the order in which they came, and a model in use makes room for them
only once it has had its turn, so that no flow of requests, however dense, keeps the others waiting for ever. Requests
that it computes come to their end all the same; those that it has not begun wait for it behind the model that waited.
"""

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from protos import inference_pb2 as pb
from router.config import ResidencyConfig
from router.fleet.eviction import Cause, Resident, cannot_grow, never_fits, room_for, too_many
from router.supervision.progress import Progress


class ModelState(enum.StrEnum):
    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    CRASHED = "crashed"
    FAILED = "failed"
    STOPPED = "stopped"  # with the gateway
    CONNECTING = "connecting"  # to a worker on another host
    UNREACHABLE = "unreachable"  # for now


_MOST_ALIVE_FIRST = (
    ModelState.READY,
    ModelState.LOADING,
    ModelState.CONNECTING,
    ModelState.CRASHED,
    ModelState.UNREACHABLE,
    ModelState.DRAINING,
    ModelState.FAILED,
    ModelState.STOPPED,
)
IN_MEMORY = frozenset({ModelState.LOADING, ModelState.READY, ModelState.DRAINING, ModelState.CRASHED})
_UNLOADABLE = frozenset({ModelState.LOADING, ModelState.READY, ModelState.CRASHED, ModelState.FAILED})


def most_alive(states: Collection[ModelState]) -> ModelState:
    """The state of a model whose replicas, at least one, are in these states."""
    return next(state for state in _MOST_ALIVE_FIRST if state in states)


NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """What is known of one replica now."""

    index: int
    name: str  # as "MODEL/0"
    state: ModelState
    pid: int | None  # None on another host, too
    address: str | None  # of a process, once it has one
    num_open: int  # calls that this gateway has open to it
    num_restarts: int
    reason: str  # of a crash or failure, one line, else empty
    is_remote: bool = False  # on another host


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What is known of one model now."""

    name: str
    aliases: tuple[str, ...]  # every name it answers to, the first is `name`
    path: Path | None  # None: all its workers are on other hosts
    state: ModelState
    reason: str  # of a crash or failure, one line, else empty
    progress: Progress | None  # of the loading, if a worker has told
    replicas: tuple[ReplicaStatus, ...]
    last_lines: tuple[str, ...]  # of a worker's output
    description: pb.DescribeReply | None  # once it has been ready
    arguments: tuple[str, ...] = ()  # its workers' own
    num_crashes: int = 0  # of its workers, those that have gone with them
    source: str = ""  # ModelConfig.source
    exit_code: int | None = None  # of a worker whose last life ended by itself, as a shell has it


@dataclass(frozen=True, slots=True)
class Standing:
    """A model as the plan sees it. Times are in seconds of one clock."""

    name: str
    state: ModelState
    num_bytes: int  # that it takes, or would
    num_users: int = 0  # requests that use it or wait for it
    wanted_since: float | None = None  # since when it is to be loaded, if it is
    yields: bool = False  # it is loaded only if nothing has to go for it
    last_used: float = 0.0
    serves_since: float = 0.0  # when it became ready after it was loaded
    keep_alive: float = NEVER  # seconds without users after which it goes
    pin: bool = False  # it is never pushed out
    leaves: bool = False  # it was told to go

    def evictable_at(self, waiting_since: float, turn: float) -> float:
        """From when on it may go for a model that waits since then: idle at any time, busy only after its turn."""
        if self.pin or self.state not in (ModelState.READY, ModelState.CRASHED):
            return NEVER
        return max(waiting_since, self.serves_since) + turn if self.num_users else 0.0

    @property
    def expires(self) -> float:
        """When it will have been idle too long."""
        idle = self.state is ModelState.READY and not self.num_users
        return self.last_used + self.keep_alive if idle else NEVER

    def resident(self, *, evictable: bool = False, leaving: bool = False) -> Resident:
        leaving = leaving or self.state is ModelState.DRAINING
        return Resident(
            self.name, self.num_bytes, self.last_used, evictable and not leaving, self.num_users > 0, self.pin, leaving
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done now."""

    unload: Mapping[str, Cause] = field(default_factory=dict)
    load: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()  # models that yield: there was no room for them
    refuse: Mapping[str, str] = field(default_factory=dict)  # models that can never be loaded, and why
    due: float | None = None  # when to plan again if nothing changes before


def plan(models: Sequence[Standing], limits: ResidencyConfig, now: float) -> Plan:
    """Unloads what was told to go, was idle too long, or is idle where those in memory have become too many.

    Then loads what is wanted, first come, first served.
    """
    going = [each for each in models if each.state in _UNLOADABLE and (each.leaves or each.expires <= now)]
    unload = {each.name: Cause.ASKED if each.leaves else Cause.TTL for each in going}
    inside = [each for each in models if each.state in IN_MEMORY]
    unload |= too_many([_if_idle(each, leaving=each.name in unload) for each in inside], limits)
    dues = [each.expires for each in models if each.name not in unload]
    load, drop, refuse = [], [], {}
    for each in sorted(filter(_is_wanted, models), key=_wanted_since):
        free_at = {other.name: other.evictable_at(_wanted_since(each), limits.turn) for other in inside}
        residents = [
            other.resident(evictable=free_at[other.name] <= now, leaving=other.name in unload) for other in inside
        ]
        why = never_fits(each.resident(), residents, limits)
        if why is not None:
            refuse[each.name] = why
            continue
        room = room_for(each.resident(), residents, limits)
        if room.fits:
            load.append(each.name)
            inside.append(each)
        elif each.yields:
            drop.append(each.name)
        else:
            unload |= room.victims
            dues += [due for due in free_at.values() if due > now]
            break
    due = min(dues, default=NEVER)
    return Plan(unload, tuple(load), tuple(drop), refuse, due if due < NEVER else None)


def growth_refusal(before: Mapping[str, int], models: Sequence[Standing], limits: ResidencyConfig) -> str | None:
    """Why the models in memory could not take what they would take now; None: idle ones make room if need be.

    `before`: the bytes that each of them takes.
    """
    inside = [each for each in models if each.state in IN_MEMORY]
    grown = {each.name for each in inside if each.num_bytes > before[each.name]}
    residents = [_if_idle(each, stays=each.name in grown) for each in inside]
    for each in residents:
        others = [other for other in residents if other is not each]
        if each.name in grown and (why := cannot_grow(each, others, limits)) is not None:
            return f"model {each.name}: {why}"
    return None


def _if_idle(model: Standing, *, leaving: bool = False, stays: bool = False) -> Resident:
    """As one that goes only while nobody uses it."""
    return model.resident(evictable=not stays and model.evictable_at(NEVER, 0.0) < NEVER, leaving=leaving)


def _is_wanted(model: Standing) -> bool:
    return model.wanted_since is not None and model.state is ModelState.UNLOADED


def _wanted_since(model: Standing) -> float:
    return model.wanted_since or 0.0
