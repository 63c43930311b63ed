"""What the workers of one model have counted and what became of them, since the model is in the configuration.

Owned by replicaset.ReplicaSet, which outlives its workers: they end, are replaced and are left, and what each has told
by then stays. A worker on another host counts from when this gateway reached it, and again from each time that it does.
Invariant: no count ever falls.
"""

import enum
import time
from collections.abc import Callable, Mapping

from protos import inference_pb2 as pb
from router.fleet.eviction import Cause
from router.fleet.pace import Look, Pace, Throughput
from router.fleet.totals import COUNTS
from router.observe.histogram import Series

LOAD_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)  # seconds


class LoadEnd(enum.StrEnum):
    """How a load of a model ended."""

    READY = "ready"
    FAILED = "failed"
    CUT = "cut"  # the model was unloaded before


class Tally:
    """One model's counts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted = pb.StatsReply()
        self._pace = Pace()
        self.num_crashes = 0  # ends of workers that nobody asked for
        self.num_loads = dict.fromkeys(LoadEnd, 0)
        self.num_unloads = dict.fromkeys(Cause, 0)
        self.load_seconds = Series(LOAD_BOUNDS)  # from the start of the workers until one is ready
        self._load_began: float | None = None

    def worker(self, *, from_start: bool) -> "Life":
        """A worker whose counts are to be added; `from_start`: all of them, not only what is to come."""
        return Life(self, self._clock, pb.StatsReply() if from_start else None)

    def add(self, growth: Mapping[str, float], longest: int) -> None:
        """What a worker has counted more than when it told last, by the names of COUNTS; its longest sequence."""
        counted = self._counted
        for name, rise in growth.items():
            setattr(counted, name, getattr(counted, name) + rise)
        counted.longest_sequence = max(counted.longest_sequence, longest)
        self._pace.note(_look(counted, self._clock()))

    def load_begins(self) -> None:
        """Workers are started for the model."""
        self._load_began = self._clock()

    def load_ends(self, end: LoadEnd) -> None:
        """A load that is under way has come to this end."""
        if self._load_began is None:
            return
        self.num_loads[end] += 1
        if end is LoadEnd.READY:
            self.load_seconds.observe(self._clock() - self._load_began)
        self._load_began = None

    def unloaded(self, cause: Cause) -> None:
        """Its workers are told to go."""
        self.load_ends(LoadEnd.CUT)
        self.num_unloads[cause] += 1

    def put_into(self, stats: pb.StatsReply) -> None:
        """Puts the counts of all workers there ever were in the place of those of the present ones."""
        for name in (*COUNTS, "longest_sequence"):
            setattr(stats, name, getattr(self._counted, name))

    @property
    def tokens_per_second(self) -> float:
        """See Pace.tokens_per_second."""
        return self._pace.tokens_per_second(self._clock())

    @property
    def throughput(self) -> Throughput:
        """See Pace.throughput."""
        return self._pace.throughput(self._clock())


class Life:
    """What one worker, from its start or from one connection to it, has told so far."""

    def __init__(self, tally: Tally, clock: Callable[[], float], seen: pb.StatsReply | None) -> None:
        self._tally = tally
        self._clock = clock
        self._seen = seen
        self._pace = Pace()

    def note(self, told: pb.StatsReply) -> None:
        """Replies to questions that were asked at the same time may come in any order."""
        if self._seen is None:
            self._seen = pb.StatsReply()
            self._seen.CopyFrom(told)
        seen = self._seen
        growth = {name: rise for name in COUNTS if (rise := getattr(told, name) - getattr(seen, name)) > 0}
        for name in growth:
            setattr(seen, name, getattr(told, name))
        self._pace.note(_look(seen, self._clock()))
        self._tally.add(growth, told.longest_sequence)

    @property
    def tokens_per_second(self) -> float:
        """See Pace.tokens_per_second."""
        return self._pace.tokens_per_second(self._clock())


def _look(counts: pb.StatsReply, now: float) -> Look:
    return Look(
        now,
        counts.prompt_tokens_total,
        counts.prompt_seconds_total,
        counts.predicted_tokens_total,
        counts.predicted_seconds_total,
    )
