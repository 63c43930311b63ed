"""Workers that are killed, or that kill themselves: what their streams, their requests and other models feel."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from router.fleet.lifecycle import ModelState
from tests.faults.answers import chat
from tests.faults.scenes import PATIENT, SLOW, Streams, all_ready, asking, gateway, statuses, words
from tests.router.mocks import DEADLINE, until

pytestmark = pytest.mark.anyio


async def test_a_killed_worker_costs_no_stream_anything_and_other_models_nothing() -> None:
    """F1."""
    async with gateway("a", "b", replicas=2) as started:
        streams = Streams(started, [asking(f"stop_at=40 {SLOW}", model) for model in ("a" * 8 + "b" * 2)])
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
        answers = await Streams(started, [asking(crash) for _ in range(8)]).answers()
        assert [(answer.error, answer.texts) for answer in answers] == [(None, {0: words(3)})] * 8
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
    slow = replace(PATIENT, first_delay=DEADLINE, longest_delay=DEADLINE)
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
    away = replace(PATIENT, first_delay=DEADLINE, longest_delay=DEADLINE, recovery_wait=0.2)
    async with gateway(supervision=away) as started:
        streams = Streams(started, [asking(f"stop_at=1000 {SLOW}")])
        await streams.begun()
        pid = statuses(started)[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        [answer] = await streams.answers()
        assert answer.error is not None
        assert not answer.done and not answer.reasons


@pytest.mark.parametrize("stream", [False, True])
async def test_a_worker_that_is_ending_is_left_and_without_another_the_client_is_told(stream: bool) -> None:
    async with gateway(supervision=replace(PATIENT, recovery_wait=0.2)) as started:
        body = asking("refuse=UNAVAILABLE", stream=stream)
        answer = await started.client.post("/v1/chat/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "unavailable_error")
