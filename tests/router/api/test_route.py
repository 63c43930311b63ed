"""POST /v1/route, and the answers that say how they were routed."""

import json
from dataclasses import replace

import httpx
import pytest

from tests.faults.scenes import asking, gateway, stats
from tests.router.gateways import config

pytestmark = pytest.mark.anyio


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
