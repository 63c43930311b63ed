"""What state a model is in, and which models are to be loaded and unloaded next. Pure.

    UNLOADED ──wanted, and there is room──> LOADING ──serving──> READY ──exit──> CRASHED ──delay──> LOADING
        ^                                      └──no good, or crashed too often──> FAILED ──asked again──> LOADING
        └────────────── DRAINING <── idle too long, pushed out, told to go ── READY, CRASHED

Fleet calls `plan` after every change and carries out what it says; supervisor.WorkerProcess has the same states, one by
one. Invariant: a model that is in use is unloaded only when somebody says so by name, and those that wait for room get
it in the order in which they came.
"""

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from protos import inference_pb2 as pb
from router.config import ResidencyConfig
from router.eviction import Resident, never_fits, room_for
from router.progress import Progress


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
_IN_MEMORY = frozenset({ModelState.LOADING, ModelState.READY, ModelState.DRAINING, ModelState.CRASHED})
_UNLOADABLE = frozenset({ModelState.LOADING, ModelState.READY, ModelState.CRASHED, ModelState.FAILED})


def most_alive(states: Collection[ModelState]) -> ModelState:
    """The state of a model whose replicas, at least one, are in these states."""
    return next(state for state in _MOST_ALIVE_FIRST if state in states)


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

    @property
    def num_restarts(self) -> int:
        return sum(replica.num_restarts for replica in self.replicas)


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
    keep_alive: float = float("inf")  # seconds without users after which it goes
    pin: bool = False  # it is never pushed out
    leaves: bool = False  # it was told to go

    @property
    def evictable(self) -> bool:
        return self.state in (ModelState.READY, ModelState.CRASHED) and not (self.pin or self.num_users)

    @property
    def expires(self) -> float:
        """When it will have been idle too long."""
        idle = self.state is ModelState.READY and not self.num_users
        return self.last_used + self.keep_alive if idle else float("inf")

    def resident(self) -> Resident:
        return Resident(
            self.name, self.num_bytes, self.last_used, self.evictable, self.pin, self.state is ModelState.DRAINING
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done now."""

    unload: tuple[str, ...] = ()
    load: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()  # models that yield: there was no room for them
    refuse: Mapping[str, str] = field(default_factory=dict)  # models that can never be loaded, and why
    due: float | None = None  # when to plan again if nothing changes before


def plan(models: Sequence[Standing], limits: ResidencyConfig, now: float) -> Plan:
    """Unloads what was told to go or idle too long; then loads what is wanted, first come, first served."""
    unload = [each.name for each in models if each.state in _UNLOADABLE and (each.leaves or each.expires <= now)]
    residents = {each.name: _leaving(each, unload) for each in models if each.state in _IN_MEMORY}
    load, drop, refuse = [], [], {}
    for each in sorted(filter(_is_wanted, models), key=_wanted_since):
        why = never_fits(each.resident(), residents.values(), limits)
        if why is not None:
            refuse[each.name] = why
            continue
        room = room_for(each.resident(), residents.values(), limits)
        if room.fits:
            load.append(each.name)
            residents[each.name] = each.resident()
        elif each.yields:
            drop.append(each.name)
        else:
            unload += room.victims
            break
    dues = [each.expires for each in models if each.name not in unload and each.expires < float("inf")]
    return Plan(tuple(unload), tuple(load), tuple(drop), refuse, min(dues, default=None))


def _is_wanted(model: Standing) -> bool:
    return model.wanted_since is not None and model.state is ModelState.UNLOADED


def _wanted_since(model: Standing) -> float:
    return model.wanted_since or 0.0


def _leaving(model: Standing, unload: Collection[str]) -> Resident:
    resident = model.resident()
    return resident if model.name not in unload else resident.gone()
