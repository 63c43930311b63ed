"""More requests than there is room for, at once."""

import asyncio
from pathlib import Path

import pytest

from router.config import LimitsConfig, ModelConfig
from tests.faults.answers import chat
from tests.faults.scenes import PATIENT, SLOW, Streams, asking, gateway, statuses, words
from tests.router.gateways import config, running
from tests.router.mocks import until

pytestmark = pytest.mark.anyio


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
    async with running(config(models=(model,), supervision=PATIENT), wait=False) as started:
        answers = await Streams(started, [asking("stop_at=2") for _ in range(50)]).answers()
        assert [answer.texts for answer in answers] == [{0: words(2)}] * 50
        assert len(statuses(started)) == 1 and statuses(started)[0].num_restarts == 0
