"""GET /admin/fleet and /admin/logs."""

import asyncio

import orjson
import pytest

from tests.router.gateways import config, running
from tests.router.mocks import DEADLINE

pytestmark = pytest.mark.anyio


async def test_the_fleet_tells_of_every_model_whatever_its_state() -> None:
    async with running(config("good", "bad", options=["--bad-model", "bad"])) as gateway:
        await gateway.client.post("/completion", json={"model": "good", "prompt": "x"})
        good, bad = (await gateway.client.get("/admin/fleet")).json()["models"]
    assert (good["name"], good["state"], good["running"], good["waiting"], good["crashes"]) == (
        "good",
        "ready",
        0,
        0,
        0,
    )
    assert good["pids"][0] > 0 and good["context_length"] == 2048
    assert (bad["state"], bad["reason"], bad["pids"], bad["running"]) == (
        "failed", "/models/bad.gguf: not a GGUF file", [], None,
    )  # fmt: skip
    assert (good["cache"]["prefixes"], good["cache"]["digest"], bad["cache"]) == (0, "0" * 16, None)


async def test_the_log_of_a_worker_outlives_it() -> None:
    async with running(config("good", "bad", options=["--bad-model", "bad"])) as gateway:
        answer = await gateway.client.get("/admin/logs", params={"model": "bad"})
        assert answer.text == "error: /models/bad.gguf: not a GGUF file\n"
        assert answer.headers["content-type"].startswith("text/plain")
        assert (await gateway.client.get("/admin/logs", params={"model": "bad", "lines": "0"})).text == ""
        for wrong in ("-1", "x", "1001", "9" * 5000):
            refused = await gateway.client.get("/admin/logs", params={"model": "bad", "lines": wrong})
            assert refused.status_code == 400
            assert refused.json()["error"]["message"].startswith("lines must be between 0 and 1000")
        assert (await gateway.client.get("/admin/logs", params={"model": "absent"})).status_code == 404


async def test_a_follower_hears_lines_as_they_come_and_goes_when_the_gateway_drains() -> None:
    async with running(config("a")) as gateway:
        output = gateway.app.state.fleet.output("a")
        query = {"model": "a", "follow": "1", "lines": "1"}
        async with asyncio.timeout(DEADLINE), gateway.client.stream("GET", "/admin/logs", params=query) as answer:
            assert answer.status_code == 200
            lines = (orjson.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: "))
            output.add("a\nb \x1b[31m")
            assert await anext(lines) == "a\nb \x1b[31m"
            gateway.app.state.fleet.begin_drain()
            assert [line async for line in lines] == []
