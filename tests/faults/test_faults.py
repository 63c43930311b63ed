# ruff: noqa: ASYNC110 (polling with a deadline)
"""Faults of workers and of clients, each through a whole gateway with mock workers behind it. F1 to F14 and more."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from protos import inference_pb2 as pb
from router.config import LimitsConfig, ModelConfig
from router.lifecycle import ModelState, ReplicaStatus
from tests.faults.answers import Answer, chat
from tests.router.gateways import Gateway, config, running
from tests.router.mocks import DEADLINE, SUPERVISION, until

pytestmark = pytest.mark.anyio

WATCHFUL = replace(SUPERVISION, probe_interval=0.05, probe_timeout=0.3, probes=3, max_crashes=100)
SLOW = "delay=0.02"


@asynccontextmanager
async def gateway(
    *names: str, replicas: int = 1, options: tuple[str, ...] = (), **settings: Any
) -> AsyncIterator[Gateway]:
    """Mock models with so many replicas each, all ready."""
    models = tuple(ModelConfig(Path(f"/models/{name}.gguf"), (name,), (), replicas) for name in names or ("a",))
    async with running(config(**{"supervision": WATCHFUL, **settings, "models": models})) as started:
        for name in names or ("a",):
            await until(lambda name=name: all_ready(started, name, replicas))  # type: ignore[misc]
        yield started


def statuses(started: Gateway, model: str = "a") -> list[ReplicaStatus]:
    return list(started.app.state.fleet.replicas(model))


def all_ready(started: Gateway, model: str, num: int) -> bool:
    return [each.state for each in statuses(started, model)] == [ModelState.READY] * num


def asking(directives: str, model: str = "a", **more: Any) -> dict[str, Any]:
    options = {"stream_options": {"include_usage": True}} if more.get("stream", True) else {}
    return {"model": model, "stream": True, "messages": [{"role": "user", "content": directives}], **options, **more}


def words(number: int) -> str:
    return " ".join(f"w{word}" for word in range(number))


class Streams:
    """Several answers under way, and how far they all are."""

    def __init__(self, started: Gateway, bodies: list[dict[str, Any]]) -> None:
        self.num_events = [0] * len(bodies)
        self._tasks = [
            asyncio.create_task(chat(started.client, body, lambda index=index: self._hear(index)))  # type: ignore[misc]
            for index, body in enumerate(bodies)
        ]

    def _hear(self, index: int) -> None:
        self.num_events[index] += 1

    async def begun(self, num_events: int = 3) -> None:
        await until(lambda: min(self.num_events) >= num_events)

    def leave(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def answers(self) -> list[Answer]:
        return await asyncio.gather(*self._tasks)


async def stats(started: Gateway, index: int = 0) -> pb.StatsReply:
    replica = started.app.state.fleet.open("a")[index]
    return await replica.stats(pb.StatsRequest())


async def nothing_runs(started: Gateway) -> None:
    async with asyncio.timeout(DEADLINE):
        while (await stats(started)).num_running:
            await asyncio.sleep(0.01)


# ---- workers that go --------------------------------------------------------------------------


async def test_a_killed_worker_costs_no_stream_anything_and_other_models_nothing() -> None:
    """F1."""
    async with gateway("a", "b", replicas=2) as started:
        streams = Streams(started, [asking(f"stop_at=40 {SLOW}", model) for model in ("a", "a", "a", "a", "b", "b")])
        await streams.begun()
        killed = statuses(started)[0].pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        for answer in await streams.answers():
            assert (answer.error, answer.done, answer.texts) == (None, True, {0: words(40)})
            assert answer.usage["completion_tokens"] == 40
        await until(lambda: all_ready(started, "a", 2))
        assert [each.num_restarts for each in (*statuses(started), *statuses(started, "b"))] == [1, 0, 0, 0]


async def test_requests_a_killed_worker_had_not_begun_are_answered_once(tmp_path: Path) -> None:
    """F2."""
    async with gateway() as started:
        crash = f"crash_after=0 crash_once={tmp_path / 'crashed'} stop_at=3"
        answers = await Streams(started, [asking(crash) for _ in range(4)]).answers()
        assert [(answer.error, answer.texts) for answer in answers] == [(None, {0: words(3)})] * 4
        assert statuses(started)[0].num_restarts == 1


async def test_several_choices_and_whole_answers_go_on_too(tmp_path: Path) -> None:
    async with gateway(replicas=2) as started:
        crash = f"crash_after=3 crash_once={tmp_path / 'crashed'} stop_at=6"
        body = asking(crash, stream=False, n=3, logprobs=True, top_logprobs=2)
        answer = await chat(started.client, body)
        assert answer.error is None
        assert answer.texts == dict.fromkeys(range(3), words(6))
        assert [len(scores) for scores in answer.logprobs.values()] == [6] * 3
        assert answer.usage["completion_tokens"] == 18


async def test_headers_tell_of_a_move_and_where_it_led(tmp_path: Path) -> None:
    async with gateway(replicas=2) as started:
        crash = asking(f"crash_after=1 crash_once={tmp_path / 'crashed'}", stream=False)
        answer = await started.client.post("/v1/chat/completions", json=crash)
        assert answer.headers["x-corral-failovers"] == "1"
        assert answer.headers["x-corral-replica"] in ("a/0", "a/1")


async def test_a_stopped_worker_is_killed_and_its_streams_go_on() -> None:
    """F3."""
    async with gateway(replicas=2) as started:
        streams = Streams(started, [asking(f"stop_at=60 {SLOW}") for _ in range(4)])
        await streams.begun()
        stopped = statuses(started)[0].pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        for answer in await streams.answers():
            assert (answer.error, answer.texts) == (None, {0: words(60)})
        await until(lambda: not psutil.pid_exists(stopped))
        await until(lambda: all_ready(started, "a", 2))
        assert statuses(started)[0].num_restarts == 1


async def test_a_worker_that_goes_on_in_time_is_left_alone() -> None:
    """F4."""
    patient = replace(WATCHFUL, probe_timeout=DEADLINE)
    async with gateway(supervision=patient) as started:
        streams = Streams(started, [asking(f"stop_at=30 {SLOW}")])
        await streams.begun()
        pid = statuses(started)[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
        os.kill(pid, signal.SIGCONT)
        [answer] = await streams.answers()
        assert (answer.error, answer.texts) == (None, {0: words(30)})
        assert (statuses(started)[0].pid, statuses(started)[0].num_restarts) == (pid, 0)


async def test_an_error_of_one_request_leaves_the_others_alone() -> None:
    """F5."""
    async with gateway() as started:
        streams = Streams(started, [asking(f"stop_at=20 {SLOW}"), asking("refuse=INTERNAL")])
        good, bad = await streams.answers()
        assert (good.error, good.texts) == (None, {0: words(20)})
        assert bad.error is not None and not bad.done
        assert statuses(started)[0].num_restarts == 0


async def test_a_killed_worker_is_reported_as_killed() -> None:
    """F6."""
    slow = replace(WATCHFUL, first_delay=DEADLINE, longest_delay=DEADLINE)
    async with gateway("a", "b", supervision=slow) as started:
        pid = statuses(started)[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: statuses(started)[0].state is ModelState.CRASHED)
        assert "probably out of memory" in statuses(started)[0].reason
        assert (await chat(started.client, asking("stop_at=2", "b"))).texts == {0: words(2)}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_that_kills_workers_is_refused_after_the_second(stream: bool) -> None:
    """F8."""
    async with gateway(replicas=2) as started:
        answer = await chat(started.client, asking("crash_after=2", stream=stream))
        assert answer.error is not None and answer.error["code"] == "request_poisonous"
        assert not answer.done and not answer.reasons
        await until(lambda: all_ready(started, "a", 2))
        assert sum(each.num_restarts for each in statuses(started)) == 2


async def test_when_no_replica_can_take_it_the_client_is_told() -> None:
    away = replace(WATCHFUL, first_delay=DEADLINE, longest_delay=DEADLINE, recovery_wait=0.2)
    async with gateway(supervision=away) as started:
        streams = Streams(started, [asking(f"stop_at=1000 {SLOW}")])
        await streams.begun()
        pid = statuses(started)[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        [answer] = await streams.answers()
        assert answer.error is not None
        assert not answer.done and not answer.reasons


# ---- clients that go --------------------------------------------------------------------------


async def test_a_client_that_leaves_its_stream_frees_the_worker() -> None:
    """F11."""
    async with gateway() as started:
        body = asking(f"stop_at=100000 {SLOW}")
        async with started.client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.aiter_lines()
            await anext(lines)
            assert (await stats(started)).num_running == 1
        await nothing_runs(started)


async def test_a_client_that_leaves_before_a_whole_answer_frees_the_worker() -> None:
    """F12 and F13."""
    async with gateway() as started:
        body = asking(f"stop_at=100000 {SLOW}", stream=False)
        waiting = asyncio.create_task(started.client.post("/v1/chat/completions", json=body))
        async with asyncio.timeout(DEADLINE):
            while not (await stats(started)).num_running:
                await asyncio.sleep(0.01)
        waiting.cancel()
        await nothing_runs(started)


async def test_a_client_that_leaves_the_line_makes_room_in_it() -> None:
    """F14."""
    async with gateway(limits=LimitsConfig(in_flight=1, queue=1)) as started:
        first = Streams(started, [asking(f"stop_at=60 {SLOW}")])
        await first.begun()
        leaver = asyncio.create_task(chat(started.client, asking("stop_at=2")))
        await until(lambda: not started.app.state.policies.dispatcher.is_idle("a"))
        leaver.cancel()
        await until(lambda: started.app.state.policies.dispatcher.is_idle("a"))
        assert (await chat(started.client, asking("stop_at=2"))).texts == {0: words(2)}
        assert [answer.done for answer in await first.answers()] == [True]


# ---- crowds -----------------------------------------------------------------------------------


async def test_an_overfull_line_serves_whom_it_took_and_tells_the_rest_when_to_come() -> None:
    """F23."""
    async with gateway("a", "b", limits=LimitsConfig(in_flight=2, queue=4)) as started:
        running_ones = Streams(started, [asking(f"stop_at=100000 {SLOW}") for _ in range(2)])
        await running_ones.begun()
        body = asking("stop_at=2", stream=False)
        posts = [asyncio.create_task(started.client.post("/v1/chat/completions", json=body)) for _ in range(16)]
        await until(lambda: sum(post.done() for post in posts) == 12)
        refused = [post.result() for post in posts if post.done()]
        assert [answer.status_code for answer in refused] == [429] * 12
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert (await chat(started.client, asking("stop_at=3", "b"))).texts == {0: words(3)}
        running_ones.leave()
        assert sorted(answer.status_code for answer in await asyncio.gather(*posts)) == [200] * 4 + [429] * 12


async def test_many_first_requests_load_a_model_once() -> None:
    """F34."""
    model = ModelConfig(Path("/models/a.gguf"), ("a",), load_on_start=False)
    async with running(config(models=(model,), supervision=WATCHFUL), wait=False) as started:
        answers = await Streams(started, [asking("stop_at=2") for _ in range(50)]).answers()
        assert [answer.texts for answer in answers] == [{0: words(2)}] * 50
        assert len(statuses(started)) == 1 and statuses(started)[0].num_restarts == 0


# ---- explaining -------------------------------------------------------------------------------


async def test_a_route_is_explained_without_running_anything() -> None:
    async with gateway(replicas=2) as started:
        answer = (await started.client.post("/v1/route", json=asking("hello"))).json()
        assert (answer["alias"], answer["model"], answer["state"], answer["policy"]) == (
            "a",
            "a",
            "ready",
            "least-tokens",
        )
        assert [replica["name"] for replica in answer["replicas"]] == ["a/0", "a/1"]
        assert answer["replica"] in ("a/0", "a/1")
        assert (await stats(started)).num_steps == 0


async def test_an_answer_explains_its_route_if_asked() -> None:
    async with gateway() as started:
        body = asking("stop_at=1", stream=False)
        plain = await started.client.post("/v1/chat/completions", json=body)
        told = await started.client.post("/v1/chat/completions", json=body, headers={"x-route-debug": "1"})
        assert "x-corral-route-debug" not in plain.headers
        assert httpx.Response(200, text=told.headers["x-corral-route-debug"]).json()["name"] == "a/0"


async def test_a_route_by_prefix_tells_what_each_replica_holds() -> None:
    async with gateway(replicas=2, balance=replace(config("a").balance, policy="prefix")) as started:
        body = asking("a question of just seven words stop_at=1", stream=False)
        served = await started.client.post("/v1/chat/completions", json=body, headers={"x-route-debug": "1"})
        name = served.headers["x-corral-replica"]
        scores = json.loads(served.headers["x-corral-route-debug"])["scores"]
        before = {score["name"]: score["num_held"] for score in scores}
        assert before == {"a/0": 0, "a/1": 0}
        answer = (await started.client.post("/v1/route", json=body)).json()
        assert (answer["policy"], answer["replica"]) == ("prefix", name)
        held = {score["name"]: score["num_held"] for score in answer["replicas"]}
        assert held[name] >= 7 and sum(held.values()) == held[name]


async def test_a_session_stays_with_its_replica() -> None:
    async with gateway(replicas=2, balance=replace(config("a").balance, policy="session")) as started:
        served: dict[str, set[str]] = {}
        for session in ("x", "y", "z", "u", "v") * 2:
            body = asking("stop_at=1", stream=False)
            answer = await started.client.post("/v1/chat/completions", json=body, headers={"x-session-id": session})
            served.setdefault(session, set()).add(answer.headers["x-corral-replica"])
        assert [len(names) for names in served.values()] == [1] * 5
        assert len(set.union(*served.values())) == 2
