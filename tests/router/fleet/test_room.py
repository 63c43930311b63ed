"""More models than there is room for: who goes, who waits, who is refused."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from router.config import ModelConfig, ResidencyConfig
from router.errors import CommandError, ModelFailed
from router.fleet.eviction import GIB
from router.fleet.lifecycle import ModelState
from tests.router.fleet.fleets import ONE, Holder, fleet, model, pids, until_state, use
from tests.router.mocks import DEADLINE, until
from tests.router.supervision.test_supervisor import dispatcher, text_of

pytestmark = pytest.mark.anyio


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
    async with fleet(model("a"), model("b"), residency=ONE) as started:
        holder = Holder(started, "a")
        await until(lambda: bool(holder.replicas))
        [pid] = pids(started, "a")
        leaving = asyncio.create_task(use(started, "b"))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await holder.end()
        await use(started, "a")
        assert pids(started, "a") == [pid]


async def test_who_leaves_while_it_waits_for_room_makes_way_for_the_next_one() -> None:
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
        with pytest.raises(ModelFailed, match=r"needs about 3\.11 GiB, but models may take 2\.00 GiB"):
            await use(started, "huge")
        assert started.status("a").state is ModelState.READY


def sized(folder: Path, name: str, gib: int) -> ModelConfig:
    """A model whose file is so large."""
    file = folder / f"{name}-{gib}.gguf"
    with file.open("wb") as opened:
        opened.truncate(gib * GIB)
    return replace(model(name), path=file)


async def test_a_model_that_a_reload_makes_larger_pushes_out_those_that_are_idle(tmp_path: Path) -> None:
    limits = ResidencyConfig(memory=3 * GIB)
    small, large, other = sized(tmp_path, "a", 1), sized(tmp_path, "a", 2), sized(tmp_path, "b", 1)
    async with fleet(small, other, residency=limits) as started:
        await use(started, "a")
        await use(started, "b")
        [before] = pids(started, "a")
        started.check_room([large, other], limits)
        started.apply([large, other], limits)
        await until_state(started, "b", ModelState.UNLOADED)
        await until(lambda: started.status("a").state is ModelState.READY and before not in pids(started, "a"))


async def test_a_reload_that_needs_the_room_of_a_busy_model_is_refused_with_both_numbers(tmp_path: Path) -> None:
    limits = ResidencyConfig(memory=3 * GIB)
    small, large, other = sized(tmp_path, "a", 1), sized(tmp_path, "a", 2), sized(tmp_path, "b", 1)
    async with fleet(small, other, residency=limits) as started:
        await use(started, "a")
        holder = Holder(started, "b")
        await until(lambda: bool(holder.replicas))
        with pytest.raises(CommandError, match=r"model a: it needs about 2\.11 GiB.* 3\.00 GiB.* busy .* 1\.11 GiB"):
            started.check_room([large, other], limits)
        started.check_room([small, other], limits)
        await holder.end()
        started.check_room([large, other], limits)


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
