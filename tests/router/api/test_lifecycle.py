"""Router mode's API: models are loaded and unloaded by name, and their states told as they change."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.config import KeyConfig, ModelConfig, Scope
from router.fleet.lifecycle import ModelState
from router.keys.keys import key_digest
from router.reload import reload
from tests.router.gateways import Gateway, config, running
from tests.router.mocks import DEADLINE, until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def gateway(*names: str, **settings: Any) -> AsyncIterator[Gateway]:
    """None of whose models is loaded at the start."""
    models = tuple(ModelConfig(Path(f"/models/{name}.gguf"), (name,), load_on_start=False) for name in names)
    async with running(replace(config(), models=models, **settings)) as started:
        yield started


async def post(gateway: Gateway, path: str, model: str, **more: Any) -> httpx.Response:
    return await gateway.client.post(path, json={"model": model}, **more)


async def until_state(gateway: Gateway, name: str, state: ModelState) -> None:
    await until(lambda: gateway.app.state.fleet.status(name).state is state)


class Events:
    """What GET /models/sse has told so far."""

    def __init__(self, gateway: Gateway, **headers: str) -> None:
        self.told: list[dict[str, Any]] = []
        self.task = asyncio.create_task(self._run(gateway, headers))

    async def _run(self, gateway: Gateway, headers: dict[str, str]) -> None:
        async with gateway.client.stream("GET", "/models/sse", headers=headers) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    self.told.append(json.loads(line.removeprefix("data: ")))

    def states(self, name: str) -> list[str]:
        """In order, each once while it lasts."""
        told = [
            each["data"]["status"] for each in self.told if (each["model"], each["event"]) == (name, "model_status")
        ]
        return [state for state, before in zip(told, ["", *told], strict=False) if state != before]


async def test_a_model_is_loaded_and_unloaded_by_name() -> None:
    async with gateway("a", "b") as started:
        assert (await post(started, "/models/load", "a")).json() == {"success": True}
        await until_state(started, "a", ModelState.READY)
        again = await post(started, "/models/load", "a")
        assert (again.status_code, again.json()["error"]["message"]) == (400, "model is already running")
        assert (await post(started, "/models/unload", "a")).json() == {"success": True}
        await until_state(started, "a", ModelState.UNLOADED)
        again = await post(started, "/models/unload", "a")
        assert (again.status_code, again.json()["error"]["message"]) == (400, "model is not running")
        assert (await post(started, "/models/load", "absent")).status_code == 404
        assert (await post(started, "/models/unload", "absent")).status_code == 400


async def test_loading_is_for_administrators() -> None:
    keys = (KeyConfig("user", key_digest(b"user")), KeyConfig("boss", key_digest(b"boss"), scopes=frozenset(Scope)))
    async with gateway("a", keys=keys) as started:
        for path in ("/models/load", "/models/unload", "/admin/reload"):
            refused = await post(started, path, "a", headers={"Authorization": "Bearer user"})
            assert refused.status_code == 403
        refused = await started.client.delete(
            "/models", params={"model": "a"}, headers={"Authorization": "Bearer user"}
        )
        assert refused.status_code == 403
        accepted = await post(started, "/models/load", "a", headers={"Authorization": "Bearer boss"})
        assert accepted.status_code == 200


async def test_models_are_listed_with_their_replicas() -> None:
    async with gateway("a", "b") as started:
        await started.client.post("/completion", json={"model": "a", "prompt": "stop_at=2"})
        a, b = (await started.client.get("/models")).json()["data"]
        assert (a["status"]["value"], b["status"]["value"], b["replicas"]) == ("loaded", "unloaded", [])
        [replica] = a["replicas"]
        assert replica == {
            "id": "a/0",
            "state": "ready",
            "pid": replica["pid"],
            "address": replica["address"],
            "running": 0,
            "waiting": 0,
            "open": 0,
            "restarts": 0,
            "tokens_per_second": 0.0,
            "resident_bytes": 0,  # the mock worker does not say
            "proportional_bytes": None,
            "reason": "",
        }
        assert isinstance(replica["pid"], int) and replica["address"].startswith("unix:")


async def test_what_becomes_of_a_model_is_told_as_it_happens() -> None:
    async with gateway("a", "b") as started:
        events = Events(started)
        await until(lambda: len(events.told) == 2)
        assert events.states("a") == events.states("b") == ["unloaded"]
        await post(started, "/models/load", "a")
        await until(lambda: events.states("a") == ["unloaded", "loading", "loaded"])
        loaded = next(each["data"] for each in events.told if each["data"]["status"] == "loaded")
        assert loaded["info"]["id"] == "a" and loaded["info"]["meta"]["n_ctx"] == 2048
        progress = [each["data"]["progress"] for each in events.told if "progress" in each["data"]]
        assert progress[-1] == {"stages": ["loading"], "current": "loading", "value": 1.0}
        await post(started, "/models/unload", "a")
        await until(lambda: events.states("a")[-1] == "unloaded")
        assert events.states("b") == ["unloaded"]
        started.app.state.fleet.begin_drain()
        async with asyncio.timeout(DEADLINE):
            await events.task


async def test_a_model_that_cannot_be_loaded_tells_why_and_how_its_worker_ended() -> None:
    bad = ModelConfig(Path("/models/a.gguf"), ("a",), ("--exit-code", "2"), load_on_start=False)
    async with running(config(models=(bad,))) as started:
        events = Events(started)
        await post(started, "/models/load", "a")
        await until_state(started, "a", ModelState.FAILED)
        [entry] = (await started.client.get("/models")).json()["data"]
        shown = entry["status"]
        assert (shown["value"], shown["failed"], shown["exit_code"]) == ("unloaded", True, 2)
        await until(lambda: events.told[-1]["data"].get("exit_code") == 2)
        assert events.told[-1]["data"]["reason"] == shown["reason"]
        started.app.state.fleet.begin_drain()
        await events.task


async def test_the_configuration_is_read_again_for_whoever_asks_for_the_models_and_may() -> None:
    keys = (KeyConfig("user", key_digest(b"user")), KeyConfig("boss", key_digest(b"boss"), scopes=frozenset(Scope)))
    async with gateway("a", keys=keys) as started:
        app, user, boss = started.app, {"Authorization": "Bearer user"}, {"Authorization": "Bearer boss"}
        before = app.state.config
        more = replace(
            before, models=(*before.models, ModelConfig(Path("/models/b.gguf"), ("b",), load_on_start=False))
        )
        assert (await started.client.get("/models?reload=1", headers=boss)).status_code == 501
        app.state.reload = lambda: reload(app, lambda: more)
        assert (await started.client.get("/models?reload=1", headers=user)).status_code == 403
        assert (await started.client.get("/models?reload=", headers=user)).status_code == 200
        assert app.state.config is before
        for path in ("/models", "/v1/models"):
            listed = (await started.client.get(f"{path}?reload=1", headers=boss)).json()["data"]
            assert [entry["id"] for entry in listed] == ["a", "b"], "the answer is of what is in force now"
        app.state.reload = lambda: reload(app, lambda: replace(more, redis="redis://elsewhere"))
        refused = await started.client.get("/models?reload=1", headers=boss)
        assert refused.status_code == 400 and "the old configuration stays" in refused.json()["error"]["message"]


async def test_a_model_that_is_configured_is_not_deleted_and_the_answer_says_so() -> None:
    async with gateway("a") as started:
        refused = await started.client.delete("/models", params={"model": "a"})
        assert (refused.status_code, refused.headers["x-should-retry"]) == (500, "false")
        assert "not from cache" in refused.json()["error"]["message"]
        missing = await started.client.delete("/models", params={"model": "x" * 5000})
        assert missing.status_code == 500 and len(missing.json()["error"]["message"]) < 200


async def test_a_key_hears_only_of_its_own_models() -> None:
    keys = (KeyConfig("b-only", key_digest(b"k"), models=("b",)),)
    async with gateway("a", "b", keys=keys) as started:
        events = Events(started, Authorization="Bearer k")
        await until(lambda: bool(events.told))
        started.app.state.fleet.load("a")
        await until_state(started, "a", ModelState.READY)
        started.app.state.fleet.load("b")
        await until(lambda: "loaded" in events.states("b"))
        assert {each["model"] for each in events.told} == {"b"}
        started.app.state.fleet.begin_drain()
        await events.task


async def test_a_request_may_say_how_long_its_model_stays() -> None:
    async with gateway("a") as started:
        body = {"model": "a", "prompt": "stop_at=2"}
        answered = await started.client.post("/v1/completions", json={**body, "keep_alive": 0})
        assert answered.json()["choices"][0]["text"] == "w0 w1"
        await until_state(started, "a", ModelState.UNLOADED)
        wrong = await started.client.post("/v1/completions", json={**body, "keep_alive": "soon"})
        assert wrong.status_code == 400 and "'keep_alive'" in wrong.json()["error"]["message"]


async def test_questions_about_a_model_that_is_not_loaded_say_so_and_do_not_load_it() -> None:
    async with gateway("a", "b") as started:
        refused = await started.client.get("/props", params={"model": "a"})
        assert (refused.status_code, refused.json()["error"]["message"]) == (
            400,
            "model 'a' is not loaded (POST /models/load loads it)",
        )
        assert (await started.client.get("/health/deep")).json() == {"status": "ok", "models": []}
        checked = await started.client.get("/health/deep", params={"model": "a"})
        assert checked.status_code == 503 and "'a' is not loaded" in checked.json()["error"]["message"]
        assert {started.app.state.fleet.status(name).state for name in "ab"} == {ModelState.UNLOADED}


async def test_looking_after_a_models_health_does_not_keep_it_loaded() -> None:
    models = (ModelConfig(Path("/a"), ("a",), ttl=0.5),)
    async with running(replace(config(), models=models)) as started, asyncio.timeout(DEADLINE):
        while started.app.state.fleet.status("a").state is not ModelState.UNLOADED:
            for params in ({}, {"model": "a"}):
                await started.client.get("/health/deep", params=params)


async def test_without_autoload_a_request_says_what_to_do() -> None:
    residency = replace(config().residency, autoload=False)
    async with running(
        replace(config(), models=(ModelConfig(Path("/a"), ("a",), load_on_start=False),), residency=residency),
        wait=False,
    ) as started:
        refused = await started.client.post("/completion", json={"model": "a", "prompt": "x"})
        assert refused.status_code == 400
        assert refused.json()["error"]["message"] == "model 'a' is not loaded (POST /models/load loads it)"


KEYS = tuple(KeyConfig(name, key_digest(name.encode()), scopes=frozenset(Scope)) for name in ("one", "other"))
REFUSED_STREAMS = [
    ((KEYS[1],), 401),
    ((replace(KEYS[0], expires=datetime(2020, 1, 1, tzinfo=UTC)), KEYS[1]), 401),
    ((replace(KEYS[0], scopes=frozenset()), KEYS[1]), 403),
]


@pytest.mark.parametrize("path", ["/models/sse", "/admin/logs?follow=1&model=a"])
@pytest.mark.parametrize(("keys", "code"), REFUSED_STREAMS, ids=["revoked", "expired", "without the scope"])
async def test_a_stream_ends_with_the_right_to_hear_it(
    path: str, keys: tuple[KeyConfig, ...], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.api.listening.CHECK_SECONDS", 0.01)
    async with gateway("a", keys=KEYS) as started, asyncio.timeout(DEADLINE):
        app, headers = started.app, {"Authorization": "Bearer one"}
        async with started.client.stream("GET", path, headers=headers) as answer:
            assert answer.status_code == 200
            before = app.state.config
            reload(app, lambda: replace(before, keys=keys))
            app.state.fleet.output("a").add("a secret")
            told = "".join([text async for text in answer.aiter_text()])
        assert "a secret" not in told
        *_, last = [line for line in told.splitlines() if line.startswith("data: ")]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == code


async def test_a_follower_of_a_log_is_told_nothing_once_the_model_is_not_for_its_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("router.api.listening.CHECK_SECONDS", 0.01)
    async with gateway("a", "b", keys=KEYS) as started, asyncio.timeout(DEADLINE):
        query = {"follow": "1", "model": "a"}
        headers = {"Authorization": "Bearer one"}
        async with started.client.stream("GET", "/admin/logs", params=query, headers=headers) as answer:
            before = started.app.state.config
            reload(started.app, lambda: replace(before, keys=(replace(KEYS[0], models=("b",)), KEYS[1])))
            told = "".join([text async for text in answer.aiter_text()])
    assert "key 'one' may not use model 'a'" in told
