"""What a model has counted outlives its workers, whatever ends them."""

import os
import signal
from dataclasses import replace

import pytest

from protos import inference_pb2 as pb
from router.dispatch import Attempt
from router.fleet.eviction import Cause
from router.fleet.fleet import Fleet
from router.fleet.lifecycle import ModelState
from router.fleet.tally import LoadEnd
from tests.router.fleet.fleets import ANY, ONE, fleet, model, pids, until_state, use
from tests.router.mocks import until
from tests.router.supervision.test_supervisor import TURN, dispatcher, request, text_of
from tests.router.taking import taken

pytestmark = pytest.mark.anyio


def num_steps(fleet: Fleet) -> int:
    """Requests that the model's mock workers have ended."""
    stats = pb.StatsReply()
    fleet.tally("a").put_into(stats)
    return stats.num_steps


async def test_counts_go_on_through_a_crash_an_unload_a_reload_and_a_load() -> None:
    async with fleet(model("a", load_on_start=True)) as started:
        await until_state(started, "a", ModelState.READY)
        calls = dispatcher(started)
        await text_of(calls, "stop_at=1")
        assert (await calls.stats("a")).num_steps == 1
        os.kill(pids(started, "a")[0] or 0, signal.SIGKILL)
        await until(lambda: started.status("a").num_crashes == 1)
        assert num_steps(started) == 1
        await until_state(started, "a", ModelState.READY)
        await text_of(calls, "stop_at=1")
        [old] = pids(started, "a")
        stream = taken(calls, Attempt("a"), request("stop_at=100000 delay=0.01"), TURN)
        await anext(stream)
        started.apply([model("a", "--parallel", "7")], ANY)
        await until(lambda: [each.pid for each in started.replicas("a") if each.state is ModelState.DRAINING] == [old])
        stats = await calls.stats("a")
        assert (stats.num_running, stats.num_steps) == (1, 2), "a worker that drains still computes"
        await stream.aclose()
        await until(lambda: old not in pids(started, "a"))
        assert num_steps(started) == 2, "a worker that goes tells what it has counted since somebody looked"
        await text_of(calls, "stop_at=1")
        started.unload("a")
        await until_state(started, "a", ModelState.UNLOADED)
        assert num_steps(started) == 3
        await text_of(calls, "stop_at=1")
        assert (await calls.stats("a")).num_steps == 4
        tally = started.tally("a")
        assert (tally.num_crashes, started.replicas("a")[0].num_restarts) == (1, 0)
        assert (tally.num_loads[LoadEnd.READY], sum(tally.load_seconds.counts)) == (2, 2)
        assert tally.num_unloads == {**dict.fromkeys(Cause, 0), Cause.ASKED: 1}


async def test_why_models_are_unloaded_and_what_came_of_loads_is_counted() -> None:
    bad = model("bad", "--bad-model", "bad")
    async with fleet(replace(model("a"), ttl=0.05), model("b"), bad, residency=ONE) as started:
        await use(started, "a")
        await until_state(started, "a", ModelState.UNLOADED)
        await use(started, "b")
        await use(started, "a")
        started.load("bad")
        await until_state(started, "bad", ModelState.FAILED)
        tallies = started.tallies()
        assert tallies["b"].num_unloads == {**dict.fromkeys(Cause, 0), Cause.MODELS_MAX: 1}
        assert tallies["a"].num_unloads[Cause.TTL] + tallies["a"].num_unloads[Cause.MODELS_MAX] == 2
        assert tallies["bad"].num_loads == {**dict.fromkeys(LoadEnd, 0), LoadEnd.FAILED: 1}
