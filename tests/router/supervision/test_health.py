from dataclasses import replace
from typing import cast

import pytest

from protos import inference_pb2 as pb
from router.config import SupervisionConfig
from router.rpc.replica import Replica
from router.supervision.health import LATE, STEPS_OF_PATIENCE, Watch, hung, slowest_step

pytestmark = pytest.mark.anyio

CONFIG = SupervisionConfig()
SMALL = pb.DescribeReply(num_parameters=135_000_000, num_threads=2)


def busy(num_steps: int) -> pb.StatsReply:
    return pb.StatsReply(num_steps=num_steps, num_running=1, busy=True)


def test_silence_is_a_hang_only_after_several_probes_in_a_row() -> None:
    watch = Watch(CONFIG, SMALL, 0.0)
    assert [watch.silent(), watch.silent()] == ["", ""]
    watch.answered(pb.StatsReply(), 3.0)
    assert [bool(watch.silent()) for _ in range(3)] == [False, False, True]


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


class Stuck:
    """A worker that answers, and whose engine stands."""

    async def probe(self, _: float) -> pb.StatsReply:
        return busy(5)


async def test_time_in_which_the_gateway_stood_still_itself_is_not_counted() -> None:
    now = iter([0.0, 1.0, 61.0, *range(62, 100)])
    looks: list[float] = []

    def clock() -> float:
        looks.append(next(now))
        return looks[-1]

    at_once = replace(CONFIG, probe_interval=0.0)
    reason = await hung(cast("Replica", Stuck()), SMALL, at_once, clock)
    assert "no step of the engine for 11 s" in reason
    assert looks[-1] == 61.0 - LATE * at_once.probe_timeout + 11.0


def test_the_first_step_of_a_large_model_may_take_longer() -> None:
    large = pb.DescribeReply(num_parameters=8_000_000_000, num_threads=4)
    assert slowest_step(SMALL) < CONFIG.step_deadline < 100 < slowest_step(large)
    watch = Watch(CONFIG, large, 0.0)
    watch.answered(busy(0), 0.0)
    assert watch.answered(busy(0), 100.0) == ""
