"""Models are loaded when somebody wants them, and unloaded when nobody does or when told."""

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from router.config import ResidencyConfig
from router.dispatch import Attempt
from router.errors import InvalidRequest, ModelFailed, Unavailable
from router.fleet.lifecycle import ModelState
from tests.router.fleet.fleets import ANY, Holder, fleet, model, pids, until_state, use
from tests.router.mocks import DEADLINE, until
from tests.router.supervision.test_supervisor import TURN, dispatcher, request, rest, text_of
from tests.router.taking import taken
from tests.router.test_reload import words

pytestmark = pytest.mark.anyio


async def test_fifty_first_requests_are_one_load(tmp_path: Path) -> None:
    """F34."""
    async with fleet(model("a", "--hold", str(tmp_path / "go"))) as started:
        assert started.status("a").state is ModelState.UNLOADED
        started.check_health()
        requests = [asyncio.create_task(use(started, "a")) for _ in range(25)]
        await until_state(started, "a", ModelState.LOADING)
        requests += [asyncio.create_task(use(started, "a")) for _ in range(25)]
        await until(lambda: len(holding(tmp_path / "go")) > 0)
        (tmp_path / "go").touch()
        served = await asyncio.gather(*requests)
        assert holding(tmp_path / "go") == pids(started, "a"), "no other process was started"
        assert {replicas[0].address for replicas in served} == {started.replicas("a")[0].address}
        assert len(started.replicas("a")) == 1
        assert started.status("a").num_crashes == 0


def holding(file: Path) -> list[int]:
    """Processes that wait for this file, or did."""
    return [child.pid for child in psutil.Process().children() if str(file) in words(child)]


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


async def test_a_model_that_waits_for_room_gets_it_with_the_end_of_another_ones_last_request() -> None:
    residency = ResidencyConfig(max_models=1, turn=3600.0)  # a busy model does not make room before the test gives up
    async with fleet(model("a"), model("b"), residency=residency) as started:
        first = Holder(started, "a")
        await until(lambda: bool(first.replicas))
        second = Holder(started, "b")
        await asyncio.sleep(0)  # the second one asks
        await first.end()
        await until(lambda: bool(second.replicas))
        await second.end()


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
        stream = taken(calls, Attempt("a"), request("stop_at=30 delay=0.01"), TURN)
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
        stream = taken(dispatcher(started), Attempt("a"), request("stop_at=30 delay=0.01"), TURN)
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
