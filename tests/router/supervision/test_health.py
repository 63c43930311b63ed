import asyncio
from dataclasses import replace
from typing import cast

import pytest

from protos import inference_pb2 as pb
from router.config import SupervisionConfig
from router.errors import WorkerLost
from router.rpc.replica import Replica
from router.supervision.health import LATE, STEPS_OF_PATIENCE, Watch, hung, slowest_step
from router.supervision.silence import Activity

pytestmark = pytest.mark.anyio

CONFIG = SupervisionConfig()
SMALL = pb.DescribeReply(num_parameters=135_000_000, num_threads=2)


def busy(num_steps: int) -> pb.StatsReply:
    return pb.StatsReply(num_steps=num_steps, num_running=1, busy=True)


def test_silence_is_a_hang_only_after_several_probes_in_a_row() -> None:
    watch = Watch(CONFIG, SMALL, 0.0)
    assert [watch.silent(1.0, None), watch.silent(2.0, None)] == ["", ""]
    watch.answered(pb.StatsReply(), 3.0)
    assert [bool(watch.silent(now, None)) for now in (4.0, 5.0, 6.0)] == [False, False, True]


def test_a_process_that_computes_and_does_not_answer_gets_as_long_as_a_step() -> None:
    """Another thread of it may hold the interpreter, or others the processors."""
    watch = Watch(CONFIG, SMALL, 0.0)
    watch.answered(busy(1), 5.0)
    patience = CONFIG.step_deadline
    assert not any(watch.silent(5.0 + second, still=False) for second in range(int(patience) + 1))
    assert "has not answered for 11 s" in watch.silent(5.0 + patience + 1, still=False)


def test_one_miss_at_work_makes_the_misses_before_it_none() -> None:
    watch = Watch(CONFIG, SMALL, 0.0)
    assert [watch.silent(1.0, still=True), watch.silent(2.0, still=True), watch.silent(3.0, still=False)] == [""] * 3
    assert [bool(watch.silent(now, still=True)) for now in (4.0, 5.0, 6.0)] == [False, False, True]


def test_work_without_a_step_is_a_hang() -> None:
    watch = Watch(CONFIG, SMALL, 0.0)
    assert watch.answered(busy(5), 100.0) == ""
    assert watch.answered(busy(5), 100.0 + CONFIG.step_deadline) == ""
    assert "no step of the engine for 11 s" in watch.answered(busy(5), 111.0)


def test_an_engine_that_steps_or_has_nothing_to_do_is_not_hung() -> None:
    watch = Watch(CONFIG, SMALL, 0.0)
    assert not any(watch.answered(busy(step), 9.0 * step) for step in range(10))
    assert not any(watch.answered(pb.StatsReply(num_steps=9), 90.0 + 100.0 * step) for step in range(10))
    assert watch.answered(busy(9), 1100.0) == ""


def test_long_steps_that_were_seen_are_waited_for() -> None:
    watch = Watch(CONFIG, SMALL, 0.0)
    watch.answered(busy(1), 0.0)
    watch.answered(busy(2), 4.0)
    assert watch.answered(busy(2), 4.0 + 4.0 * STEPS_OF_PATIENCE) == ""
    assert watch.answered(busy(2), 5.0 + 4.0 * STEPS_OF_PATIENCE) != ""


class Silent:
    """A worker that does not answer, and what that costs of a clock, which sleep moves on as well."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, took: float) -> None:
        self.now = 0.0
        self.num_probes = 0
        self._took = took
        monkeypatch.setattr(asyncio, "sleep", self._sleep)

    def clock(self) -> float:
        return self.now

    async def probe(self, _: float) -> pb.StatsReply:
        self.now += self._took
        self.num_probes += 1
        raise WorkerLost("no answer")

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds


STILL = Activity(is_at_it=False, ticks=("7", "3"))


async def test_a_stopped_worker_is_known_for_one_within_four_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """F3. Stopped right after it has answered: one interval, and three probes without a pause between them."""
    worker = Silent(monkeypatch, CONFIG.probe_timeout)
    assert "no answer to 3 health probes" in await hung(
        cast("Replica", worker), SMALL, CONFIG, worker.clock, lambda: STILL
    )
    assert (worker.now, worker.num_probes) == (4.0, 3)


async def test_a_worker_that_refuses_at_once_is_not_asked_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is about to end."""
    worker = Silent(monkeypatch, 0.0)
    await hung(cast("Replica", worker), SMALL, CONFIG, worker.clock, lambda: STILL)
    assert (worker.now, worker.num_probes) == (3.0, 3)


async def test_nobody_is_asked_faster_of_whom_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Silent(monkeypatch, CONFIG.probe_timeout)
    await hung(cast("Replica", worker), SMALL, CONFIG, worker.clock)
    assert (worker.now, worker.num_probes) == (6.0, 3)


async def test_probes_during_which_the_gateway_stood_still_itself_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Silent(monkeypatch, 60.0)

    def process() -> Activity:
        assert worker.num_probes < 10, "enough"
        return STILL

    with pytest.raises(AssertionError, match="enough"):
        await hung(cast("Replica", worker), SMALL, CONFIG, worker.clock, process)


class Stuck:
    """A worker that answers, and whose engine stands; the gateway stands still itself during the second probe."""

    def __init__(self) -> None:
        self.now = 0.0
        self._durations = iter([1.0, 60.0, *[1.0] * 50])

    def clock(self) -> float:
        return self.now

    async def probe(self, _: float) -> pb.StatsReply:
        self.now += next(self._durations)
        return busy(5)


async def test_time_in_which_the_gateway_stood_still_itself_is_not_counted() -> None:
    worker, at_once = Stuck(), replace(CONFIG, probe_interval=0.0)
    reason = await hung(cast("Replica", worker), SMALL, at_once, worker.clock)
    assert "no step of the engine for 11 s" in reason
    assert worker.now == 61.0 - LATE * at_once.probe_timeout + 11.0


def test_the_first_step_of_a_large_model_may_take_longer() -> None:
    large = pb.DescribeReply(num_parameters=8_000_000_000, num_threads=4)
    assert slowest_step(SMALL) < CONFIG.step_deadline < 100 < slowest_step(large)
    watch = Watch(CONFIG, large, 0.0)
    watch.answered(busy(0), 0.0)
    assert watch.answered(busy(0), 100.0) == ""
