"""Models with several replicas, loaded on demand and unloaded again, in real processes."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from protos import inference_pb2 as pb
from router.config import ModelConfig, ResidencyConfig
from router.dispatch import Attempt
from router.errors import InvalidRequest, ModelFailed, ModelNotFound, Unavailable
from router.fleet.eviction import GIB
from router.fleet.fleet import Fleet
from router.fleet.lifecycle import ModelState, ModelStatus
from router.rpc.replica import Replica
from tests.router.mocks import DEADLINE, SUPERVISION, until
from tests.router.supervision.test_supervisor import TURN, dispatcher, request, rest, text_of

pytestmark = pytest.mark.anyio

ANY = ResidencyConfig()
ONE = ResidencyConfig(max_models=1)


def model(name: str, *options: str, load_on_start: bool = False, **settings: object) -> ModelConfig:
    config = ModelConfig(Path(f"/models/{name}.gguf"), (name,), options, load_on_start=load_on_start)
    return replace(config, **settings)  # type: ignore[arg-type]


@asynccontextmanager
async def fleet(*models: ModelConfig, residency: ResidencyConfig = ANY) -> AsyncIterator[Fleet]:
    async with Fleet(models, SUPERVISION, residency) as started:
        yield started


async def until_state(fleet: Fleet, name: str, state: ModelState) -> ModelStatus:
    await until(lambda: fleet.status(name).state is state)
    return fleet.status(name)


def pids(fleet: Fleet, name: str) -> list[int | None]:
    return [replica.pid for replica in fleet.replicas(name)]


async def use(fleet: Fleet, name: str) -> tuple[Replica, ...]:
    with fleet.using(name):
        async with asyncio.timeout(DEADLINE):
            return tuple(await fleet.ready(name))


class Holder:
    """A request that keeps a model until it is let go."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.replicas: tuple[Replica, ...] = ()
        self._release = asyncio.Event()
        self.task = asyncio.create_task(self._run(fleet, name))

    async def _run(self, fleet: Fleet, name: str) -> None:
        with fleet.using(name):
            self.replicas = tuple(await fleet.ready(name))
            await self._release.wait()

    async def end(self) -> None:
        self._release.set()
        await self.task


# ---- replicas ---------------------------------------------------------------------------------


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
        streams = [calls.generate(Attempt("a"), request("stop_at=100000 delay=0.01"), TURN) for _ in range(4)]
        for stream in streams:
            await anext(stream)
        assert [replica.num_open for replica in started.replicas("a")] == [2, 2]
        assert (await calls.stats("a")).num_running == 4
        for stream in streams:
            await stream.aclose()
        assert [replica.num_open for replica in started.replicas("a")] == [0, 0]


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


# ---- loading on demand ------------------------------------------------------------------------


async def test_fifty_first_requests_are_one_load(tmp_path: Path) -> None:
    """F34."""
    async with fleet(model("a", "--hold", str(tmp_path / "go"))) as started:
        assert started.status("a").state is ModelState.UNLOADED
        started.check_health()
        requests = [asyncio.create_task(use(started, "a")) for _ in range(50)]
        await until_state(started, "a", ModelState.LOADING)
        (tmp_path / "go").touch()
        served = await asyncio.gather(*requests)
        assert {replicas[0].address for replicas in served} == {started.replicas("a")[0].address}
        assert len(started.replicas("a")) == 1
        assert started.status("a").num_restarts == 0


async def test_without_autoload_a_request_is_refused_and_loads_nothing() -> None:
    async with fleet(model("a"), residency=replace(ANY, autoload=False)) as started:
        with pytest.raises(InvalidRequest, match="model 'a' is not loaded"):
            await use(started, "a")
        assert started.status("a").state is ModelState.UNLOADED
        started.load("a")
        await until_state(started, "a", ModelState.READY)
        assert await use(started, "a")


async def test_questions_about_a_model_do_not_load_it() -> None:
    async with fleet(model("a")) as started:
        with pytest.raises(InvalidRequest, match="not loaded"):
            await dispatcher(started).stats("a")
        assert started.replicas("a") == started.open("a") == ()


async def test_a_model_that_cannot_be_loaded_fails_those_who_wait_and_is_tried_again_when_told() -> None:
    async with fleet(model("bad", "--bad-model", "bad")) as started:
        waiting = [asyncio.create_task(use(started, "bad")) for _ in range(3)]
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, ModelFailed) and "not a GGUF file" in outcome.message
        first = started.status("bad")
        assert first.state is ModelState.FAILED and "not a GGUF file" in first.last_lines[-1]
        started.load("bad")
        await until(lambda: started.status("bad").state is not ModelState.FAILED)
        await until_state(started, "bad", ModelState.FAILED)


async def test_a_crash_while_loading_for_a_request_is_told_with_its_reason() -> None:
    async with fleet(model("a", "--exit-code", "3")) as started:
        with pytest.raises(Unavailable, match="exit status 3"):
            await use(started, "a")


# ---- unloading --------------------------------------------------------------------------------


async def test_an_idle_model_goes_after_its_time_and_comes_back_when_asked_for() -> None:
    async with fleet(model("a", ttl=0.2)) as started:
        holder = Holder(started, "a")
        await until(lambda: bool(holder.replicas))
        [pid], [first] = pids(started, "a"), holder.replicas
        await holder.end()
        await until_state(started, "a", ModelState.UNLOADED)
        assert not psutil.pid_exists(pid or 0)
        [second] = await use(started, "a")
        assert first.address != second.address


async def test_a_request_says_how_long_its_model_stays() -> None:
    async with fleet(model("a", ttl=3600.0), model("b")) as started:
        for name in ("a", "b"):
            with started.using(name, keep_alive=0.0):
                await started.ready(name)
            await until_state(started, name, ModelState.UNLOADED)


async def test_a_pinned_model_stays_whatever_a_request_says() -> None:
    async with fleet(model("a", pin=True, ttl=0.0), model("b", ttl=0.0)) as started:
        for name in ("a", "b"):
            with started.using(name, keep_alive=0.0):
                await started.ready(name)
        await until_state(started, "b", ModelState.UNLOADED)
        assert started.status("a").state is ModelState.READY


async def test_unloading_waits_for_open_calls_and_later_requests_get_a_new_worker() -> None:
    """F34."""
    async with fleet(model("a", load_on_start=True)) as started:
        await until_state(started, "a", ModelState.READY)
        calls, [old] = dispatcher(started), pids(started, "a")
        stream = calls.generate(Attempt("a"), request("stop_at=30 delay=0.01"), TURN)
        await anext(stream)
        started.unload("a")
        await until_state(started, "a", ModelState.DRAINING)
        later = asyncio.create_task(text_of(calls, "stop_at=2"))
        assert (await rest(stream)).endswith(" w29")
        assert await later == "w0 w1"
        assert pids(started, "a") != [old]


async def test_unloading_a_model_that_loads_ends_it_at_once(tmp_path: Path) -> None:
    """F34."""
    async with fleet(model("a", "--hold", str(tmp_path / "never"), load_on_start=True)) as started:
        await until_state(started, "a", ModelState.LOADING)
        started.unload("a")
        await until_state(started, "a", ModelState.UNLOADED)
        started.check_health()


async def test_a_model_told_to_load_while_it_drains_is_loaded_once_it_has_gone() -> None:
    """F34."""
    async with fleet(model("a", load_on_start=True)) as started:
        await until_state(started, "a", ModelState.READY)
        [old] = pids(started, "a")
        stream = dispatcher(started).generate(Attempt("a"), request("stop_at=30 delay=0.01"), TURN)
        await anext(stream)
        started.unload("a")
        await until_state(started, "a", ModelState.DRAINING)
        for _ in range(50):
            started.load("a")
        assert (await rest(stream)).endswith(" w29")
        await until_state(started, "a", ModelState.READY)
        await until(lambda: not psutil.pid_exists(old or 0))
        assert len(started.replicas("a")) == 1 and pids(started, "a") != [old]


async def test_requests_that_wait_for_a_model_outlast_its_unloading(tmp_path: Path) -> None:
    """F34."""
    async with fleet(model("a", "--hold", str(tmp_path / "go"))) as started:
        waiting = [asyncio.create_task(text_of(dispatcher(started), "stop_at=2")) for _ in range(5)]
        await until(lambda: any(pids(started, "a")))
        [old] = pids(started, "a")
        started.unload("a")
        await until(lambda: not psutil.pid_exists(old or 0))
        (tmp_path / "go").touch()
        assert await asyncio.gather(*waiting) == ["w0 w1"] * 5
        assert len(started.replicas("a")) == 1


@pytest.mark.parametrize("seed", range(3))
async def test_loading_unloading_and_using_in_any_order_ends_with_every_model_serving(seed: int) -> None:
    """F34."""
    dice = random.Random(seed)
    residency = ResidencyConfig(max_models=2, turn=0.1)
    async with fleet(*(model(name) for name in "abc"), residency=residency) as started:
        calls, answers = dispatcher(started), []
        for _ in range(40):
            name = dice.choice("abc")
            match dice.choice(("use", "use", "load", "unload", "leave")):
                case "load":
                    started.load(name)
                case "unload":
                    started.unload(name)
                case "leave":
                    answers[dice.randrange(len(answers))].cancel() if answers else None
                case "use":
                    answers.append(asyncio.create_task(text_of(calls, "stop_at=3 delay=0.01", name)))
            await asyncio.sleep(dice.choice((0, 0, 0.01)))
        async with asyncio.timeout(DEADLINE):
            outcomes = await asyncio.gather(*answers, return_exceptions=True)
            assert await asyncio.gather(*(text_of(calls, "stop_at=2", name) for name in "abc")) == ["w0 w1"] * 3
        texts = [each for each in outcomes if not isinstance(each, asyncio.CancelledError)]
        assert texts == ["w0 w1 w2"] * len(texts)


# ---- room -------------------------------------------------------------------------------------


async def test_the_least_recently_used_model_makes_room() -> None:
    async with fleet(model("a"), model("b"), model("c"), residency=ResidencyConfig(max_models=2)) as started:
        for name in ("a", "b", "a", "c"):
            await use(started, name)
        states = {status.name: status.state for status in started.models()}
        assert states == {"a": ModelState.READY, "b": ModelState.UNLOADED, "c": ModelState.READY}


async def test_a_busy_model_keeps_its_place_until_its_requests_have_ended() -> None:
    """F34."""
    async with fleet(model("a"), model("b"), residency=ONE) as started:
        holder = Holder(started, "a")
        await until(lambda: bool(holder.replicas))
        [pid] = pids(started, "a")
        waiting = asyncio.create_task(use(started, "b"))
        await use(started, "a")
        assert not waiting.done() and pids(started, "a") == [pid]
        await holder.end()
        assert await waiting
        assert started.status("a").state is ModelState.UNLOADED


async def test_a_flow_of_requests_without_a_gap_does_not_keep_another_model_waiting_for_ever() -> None:
    short_turns = replace(ONE, turn=0.1)
    async with fleet(model("a"), model("b"), residency=short_turns) as started:
        calls, enough = dispatcher(started), asyncio.Event()

        async def flow() -> list[str]:
            texts = [await text_of(calls, "stop_at=20 delay=0.01")]
            while not enough.is_set():
                texts.append(await text_of(calls, "stop_at=20 delay=0.01"))
            return texts

        flows = [asyncio.create_task(flow()) for _ in range(4)]
        await until_state(started, "a", ModelState.READY)
        [pid] = pids(started, "a")
        async with asyncio.timeout(DEADLINE):
            assert await text_of(calls, "stop_at=2", "b") == "w0 w1"
            await until(lambda: pids(started, "a") not in ([], [pid]))
            enough.set()
            answers = [text for texts in await asyncio.gather(*flows) for text in texts]
        assert answers == [" ".join(f"w{word}" for word in range(20))] * len(answers), "none was cut or refused"


async def test_with_all_places_busy_those_that_wait_are_served_in_order_as_places_come_free() -> None:
    """F34."""
    async with fleet(*(model(name) for name in "abcd"), residency=ResidencyConfig(max_models=2)) as started:
        first, second = Holder(started, "a"), Holder(started, "b")
        await until(lambda: bool(first.replicas and second.replicas))
        before = pids(started, "b")
        third, fourth = Holder(started, "c"), Holder(started, "d")
        await asyncio.sleep(0)
        assert [started.status(name).state for name in "cd"] == [ModelState.UNLOADED] * 2
        await first.end()
        await until(lambda: bool(third.replicas))
        assert not fourth.replicas and pids(started, "b") == before
        for holder in (second, third, fourth):
            await holder.end()
        assert fourth.replicas


async def test_who_leaves_while_it_waits_for_room_pushes_nobody_out() -> None:
    """F14."""
    async with fleet(model("a"), model("b"), model("c"), residency=ONE) as started:
        holder = Holder(started, "a")
        await until(lambda: bool(holder.replicas))
        leaving = asyncio.create_task(use(started, "b"))
        staying = asyncio.create_task(use(started, "c"))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await holder.end()
        assert [replica.name for replica in await staying] == ["c/0"]
        assert started.status("b").state is ModelState.UNLOADED


async def test_a_model_that_can_never_fit_is_refused_at_once_with_both_numbers(tmp_path: Path) -> None:
    with (tmp_path / "huge.gguf").open("wb") as file:
        file.truncate(3 * GIB)
    huge = replace(model("huge"), path=tmp_path / "huge.gguf")
    async with fleet(huge, model("a"), residency=ResidencyConfig(memory=2 * GIB)) as started:
        await use(started, "a")
        with pytest.raises(ModelFailed, match=r"needs about 3\.16 GiB, but models may take 2\.00 GiB"):
            await use(started, "huge")
        assert started.status("a").state is ModelState.READY


async def test_at_the_start_as_many_load_as_have_room() -> None:
    both = [model(name, load_on_start=True) for name in "ab"]
    async with fleet(*both, residency=ONE) as started:
        await until(lambda: started.settled)
        assert [status.state for status in started.models()] == [ModelState.READY, ModelState.UNLOADED]
        assert await use(started, "b")


async def test_requests_for_more_models_than_fit_are_all_served() -> None:
    models = [model(name) for name in "abcd"]
    async with fleet(*models, residency=ResidencyConfig(max_models=2)) as started:
        calls = dispatcher(started)
        async with asyncio.timeout(DEADLINE):
            texts = await asyncio.gather(*(text_of(calls, "stop_at=2", name) for name in "abcd" * 5))
        assert texts == ["w0 w1"] * 20


# ---- other settings while it runs -------------------------------------------------------------


async def test_changed_workers_are_replaced_one_by_one_and_no_stream_is_cut() -> None:
    """F35."""
    old = model("a", "--ctx-size", "100", replicas=2, load_on_start=True)
    async with fleet(old, model("b", load_on_start=True)) as started:
        await until(lambda: len(started.open("a")) == 2 and len(started.open("b")) == 1)
        before, other = pids(started, "a"), pids(started, "b")
        calls = dispatcher(started)
        stream = calls.generate(Attempt("a"), request("stop_at=200 delay=0.01"), TURN)
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
