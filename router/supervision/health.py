"""Whether a worker still lives: it answers in time, and its engine gets on with what it has.

supervisor.py runs `hung` beside each life of a worker, remote.py beside each connection. A worker answers Stats from
its event loop while its engine computes, so a long step is no silence, and a stopped process is. One that misses a
probe and stood still meanwhile is probed again at once; one that computes, or waits for a processor that others use,
gets as long as a step may take. Invariant: an engine without work is never hung, and one is called so only after longer
than a step of it can take. Time in which this process stood still itself, as both do where a machine is suspended, is
not counted.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from protos import inference_pb2 as pb
from router.config import SupervisionConfig
from router.errors import RouterError
from router.rpc.replica import Replica
from router.supervision.silence import Activity, stood_still

STEP_TOKENS = 512  # of the largest step, unless the worker is told otherwise
FLOPS_PER_WEIGHT = 2.0  # for one token
SLOWEST_THREAD = 1e10  # floating point operations per second; a fraction of what any processor of use does
STEPS_OF_PATIENCE = 20.0  # times the longest stretch between two steps that was seen
LATE = 2.0  # times what lies between two looks at most; beyond that it was the gateway that stood still


class Watch:
    """The judgement of one worker's life. Pure: `now` is in seconds."""

    def __init__(self, config: SupervisionConfig, description: pb.DescribeReply, now: float) -> None:
        self._config = config
        self._patience = max(config.step_deadline, config.probes * config.probe_timeout)
        self._longest_step = max(config.step_deadline, slowest_step(description))
        self._longest_stretch = 0.0
        self.doubts = False  # whether the next probe is for at once
        self._num_missed = 0  # in a row, while the process was not seen at work
        self._num_steps = -1
        self._moved = now  # when the engine last made a step, or had nothing to do
        self._heard = now  # when it last answered

    def silent(self, now: float, still: bool | None) -> str:
        """A probe without an answer. Returns why the worker is hung; empty: it is not.

        `still`: whether its process did nothing meanwhile; None: nobody knows.
        """
        self.doubts = still is True
        self._num_missed = 0 if still is False else self._num_missed + 1
        if self._num_missed >= self._config.probes:
            return f"it hung: no answer to {self._num_missed} health probes in a row"
        silence = now - self._heard
        return f"it hung: it computes, but has not answered for {silence:.0f} s" if silence > self._patience else ""

    def answered(self, stats: pb.StatsReply, now: float) -> str:
        """A probe's answer. Returns why the worker is hung; empty: it is not."""
        self.doubts, self._num_missed, self._heard = False, 0, now
        has_work = stats.busy or stats.num_running > 0 or stats.num_waiting > 0
        if not has_work or stats.num_steps != self._num_steps:
            if has_work and self._num_steps >= 0:
                self._longest_stretch = max(self._longest_stretch, now - self._moved)
            self._num_steps, self._moved = stats.num_steps, now
            return ""
        stands = now - self._moved
        if stands <= max(self._longest_step, STEPS_OF_PATIENCE * self._longest_stretch):
            return ""
        return f"it hung: {stats.num_running} requests running, and no step of the engine for {stands:.0f} s"

    def excuse(self, seconds: float) -> None:
        """For so long nobody looked."""
        self._moved += seconds
        self._heard += seconds


def slowest_step(description: pb.DescribeReply) -> float:
    """Seconds that one step of this model may take on the slowest machine: a long prompt is read in such steps."""
    operations = STEP_TOKENS * FLOPS_PER_WEIGHT * description.num_parameters
    return operations / (max(description.num_threads, 1) * SLOWEST_THREAD)


async def hung(
    replica: Replica,
    description: pb.DescribeReply,
    config: SupervisionConfig,
    clock: Callable[[], float],
    process: Callable[[], Activity | None] = lambda: None,
) -> str:
    """Probes the worker until it is hung, and returns why. `process`: what its process is at; None: nobody knows."""
    looked = began = clock()
    watch = Watch(config, description, looked)
    while True:
        await asyncio.sleep(began + config.probe_timeout - looked if watch.doubts else config.probe_interval)
        began, before, stats = clock(), process(), None
        with suppress(RouterError):
            stats = await replica.probe(config.probe_timeout)
        now, still = clock(), stood_still(before, process())
        late = max(now - looked - LATE * (config.probe_interval + config.probe_timeout), 0.0)
        watch.excuse(late)
        looked = now
        reason = ""
        if stats is not None:
            reason = watch.answered(stats, now)
        elif not late:
            reason = watch.silent(now, still)
        if reason:
            return reason
