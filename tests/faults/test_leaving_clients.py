# ruff: noqa: ASYNC110 (polling with a deadline)
"""Clients that leave: in a stream, before a whole answer, in the line."""

import asyncio

import pytest

from router.config import LimitsConfig
from tests.faults.answers import chat
from tests.faults.scenes import SLOW, Streams, asking, gateway, nothing_runs, stats, words
from tests.router.mocks import DEADLINE, until

pytestmark = pytest.mark.anyio


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
        await until(lambda: started.app.state.policies.dispatcher.num_waiting("a") > 0)
        leaver.cancel()
        await until(lambda: started.app.state.policies.dispatcher.num_waiting("a") == 0)
        assert (await chat(started.client, asking("stop_at=2"))).texts == {0: words(2)}
        assert [answer.done for answer in await first.answers()] == [True]
