"""Whether a worker still lives: it answers in time, and its engine gets on with what it has.

supervisor.py runs `hung` beside each life of a worker. A worker answers Stats from its event loop while its engine
computes, so a long step is no silence, and a stopped process is. Invariant: an engine without work is never hung, and
one is called so only after longer than a step of it can take. Time in which this process stood still itself, as both do
where a machine is suspended, is not counted.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from protos import inference_pb2 as pb
from router.config import SupervisionConfig
from router.errors import RouterError
from router.rpc.replica import Replica

STEP_TOKENS = 512  # of the largest step, unless the worker is told otherwise
FLOPS_PER_WEIGHT = 2.0  # for one token
SLOWEST_THREAD = 1e10  # floating point operations per second; a fraction of what any processor of use does
STEPS_OF_PATIENCE = 20.0  # times the longest stretch between two steps that was seen
LATE = 2.0  # times what lies between two looks at most; beyond that it was the gateway that stood still


class Watch:
    """The judgement of one worker's life. Pure: `now` is in seconds."""

    def __init__(self, config: SupervisionConfig, description: pb.DescribeReply, now: float) -> None:
        self._config = config
        self._longest_step = max(config.step_deadline, slowest_step(description))
        self._longest_stretch = 0.0
        self._num_missed = 0
        self._num_steps = -1
        self._moved = now  # when the engine last made a step, or had nothing to do

    def silent(self) -> str:
        """A probe without an answer. Returns why the worker is hung; empty: it is not."""
        self._num_missed += 1
        if self._num_missed < self._config.probes:
            return ""
        return f"it hung: no answer to {self._num_missed} health probes of {self._config.probe_timeout:g} s in a row"

    def answered(self, stats: pb.StatsReply, now: float) -> str:
        """A probe's answer. Returns why the worker is hung; empty: it is not."""
        self._num_missed = 0
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


def slowest_step(description: pb.DescribeReply) -> float:
    """Seconds that one step of this model may take on the slowest machine: a long prompt is read in such steps."""
    operations = STEP_TOKENS * FLOPS_PER_WEIGHT * description.num_parameters
    return operations / (max(description.num_threads, 1) * SLOWEST_THREAD)


async def hung(
    replica: Replica, description: pb.DescribeReply, config: SupervisionConfig, clock: Callable[[], float]
) -> str:
    """Probes the worker until it is hung, and returns why."""
    looked = clock()
    watch = Watch(config, description, looked)
    while True:
        await asyncio.sleep(config.probe_interval)
        stats = None
        with suppress(RouterError):
            stats = await replica.probe(config.probe_timeout)
        now = clock()
        watch.excuse(max(now - looked - LATE * (config.probe_interval + config.probe_timeout), 0.0))
        looked = now
        reason = watch.answered(stats, now) if stats is not None else watch.silent()
        if reason:
            return reason
