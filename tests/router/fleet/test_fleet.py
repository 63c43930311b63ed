"""The replicas of a model: their names, their share of the calls, and how they are replaced."""

import os
import signal
from dataclasses import replace

import psutil
import pytest

from protos import inference_pb2 as pb
from router.dispatch import Attempt
from router.errors import ModelNotFound
from router.fleet.lifecycle import ModelState
from tests.router.fleet.fleets import ANY, Holder, fleet, model, pids, until_state, use
from tests.router.mocks import until
from tests.router.supervision.test_supervisor import TURN, dispatcher, request, rest, text_of
from tests.router.taking import taken

pytestmark = pytest.mark.anyio


async def test_every_replica_is_a_process_with_a_name_of_its_own() -> None:
    async with fleet(model("a", replicas=3, load_on_start=True)) as started:
        await until(lambda: len(started.open("a")) == 3)
        told = started.replicas("a")
        assert [replica.name for replica in told] == ["a/0", "a/1", "a/2"] == [r.name for r in started.open("a")]
        assert len({replica.pid for replica in told}) == len({replica.address for replica in told}) == 3
        assert {replica.state for replica in told} == {ModelState.READY}


async def test_the_calls_of_a_model_spread_over_its_replicas() -> None:
    async with fleet(model("a", replicas=2, load_on_start=True)) as started:
        await until(lambda: len(started.open("a")) == 2)
        calls = dispatcher(started)
        streams = [taken(calls, Attempt("a"), request("stop_at=100000 delay=0.01"), TURN) for _ in range(4)]
        for stream in streams:
            await anext(stream)
        assert [replica.num_open for replica in started.replicas("a")] == [2, 2]
        assert (await calls.stats("a")).num_running == 4
        for stream in streams:
            await stream.aclose()
        assert [replica.num_open for replica in started.replicas("a")] == [0, 0]


async def test_the_end_of_a_request_is_no_news_where_nothing_follows_from_it() -> None:
    async with fleet(model("a", load_on_start=True)) as started:
        await until_state(started, "a", ModelState.READY)
        calls = dispatcher(started)
        await text_of(calls, "stop_at=1")
        seen = started.num_changes
        await text_of(calls, "stop_at=1")
        assert started.num_changes == seen


async def test_a_model_serves_while_one_of_its_replicas_is_down() -> None:
    async with fleet(model("a", replicas=2, load_on_start=True)) as started:
        await until(lambda: len(started.open("a")) == 2)
        os.kill(started.replicas("a")[0].pid or 0, signal.SIGKILL)
        await until(lambda: [replica.name for replica in started.open("a")] == ["a/1"])
        assert await text_of(dispatcher(started), "stop_at=2") == "w0 w1"
        await until(lambda: len(started.open("a")) == 2)
        assert [replica.num_restarts for replica in started.replicas("a")] == [1, 0]


async def test_who_has_lost_a_replica_gets_another_one() -> None:
    async with fleet(model("a", replicas=2, load_on_start=True)) as started:
        await until(lambda: len(started.open("a")) == 2)
        lost, other = started.open("a")
        assert list(await started.ready("a", left=(lost,))) == [other]


async def test_changed_workers_are_replaced_one_by_one_and_no_stream_is_cut() -> None:
    """F35."""
    old = model("a", "--ctx-size", "100", replicas=2, load_on_start=True)
    async with fleet(old, model("b", load_on_start=True)) as started:
        await until(lambda: len(started.open("a")) == 2 and len(started.open("b")) == 1)
        before, other = pids(started, "a"), pids(started, "b")
        calls = dispatcher(started)
        stream = taken(calls, Attempt("a"), request("stop_at=200 delay=0.01"), TURN)
        await anext(stream)
        started.apply([replace(old, worker_arguments=("--ctx-size", "200")), model("b")], ANY)
        await until(lambda: not set(pids(started, "a")[:2]) & set(before))
        assert len(started.open("a")) == 2
        assert (await rest(stream)).endswith(" w199")
        await until(lambda: not any(psutil.pid_exists(pid or 0) for pid in before))
        description = await started.open("a")[0].describe(pb.DescribeRequest())
        assert description.context_length == 200
        assert pids(started, "b") == other


async def test_a_replacement_that_fails_leaves_the_old_worker_in_service() -> None:
    """F35."""
    old = model("a", load_on_start=True)
    async with fleet(old) as started:
        await until_state(started, "a", ModelState.READY)
        before = pids(started, "a")
        started.apply([replace(old, worker_arguments=("--bad-model", "a"))], ANY)
        await until(lambda: len(started.replicas("a")) == 2)
        await until(lambda: len(started.replicas("a")) == 1)
        assert pids(started, "a") == before
        assert await text_of(dispatcher(started), "stop_at=2") == "w0 w1"


async def test_replicas_come_and_go_beside_those_that_stay() -> None:
    one = model("a", load_on_start=True)
    async with fleet(one) as started:
        await until_state(started, "a", ModelState.READY)
        [first] = pids(started, "a")
        started.apply([replace(one, replicas=3)], ANY)
        await until(lambda: len(started.open("a")) == 3)
        assert pids(started, "a")[0] == first
        started.apply([one], ANY)
        await until(lambda: pids(started, "a") == [first])


async def test_a_model_that_is_taken_away_ends_its_requests_first() -> None:
    async with fleet(model("a"), model("b")) as started:
        holder = Holder(started, "a")
        await until(lambda: bool(holder.replicas))
        [pid] = pids(started, "a")
        started.apply([model("b"), model("c", load_on_start=True)], ANY)
        assert [status.name for status in started.models()] == ["b", "c"]
        await until_state(started, "c", ModelState.READY)
        assert psutil.pid_exists(pid or 0)
        await holder.end()
        await until(lambda: not psutil.pid_exists(pid or 0))
        with pytest.raises(ModelNotFound):
            await use(started, "a")
