"""What the log says of requests, and what it never says."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.config import LogConfig
from router.keys.keys import full_key
from router.observe import logs
from tests.router.gateways import config, running
from tests.router.mocks import until
from tests.router.observe.test_traces import PARENT, TRACE

pytestmark = pytest.mark.anyio

SECRET = "xyzzy-secret-words"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "log"
    logs.configure(LogConfig(level="DEBUG", json=True, file=file))
    return file


def events(log: Path, route: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in log.read_text().splitlines()]
    return [event for event in found if event["logger"] == "corral.access" and event["route"] == route]


async def test_a_request_is_one_event_with_its_id_route_counts_and_times(log: Path) -> None:
    async with running(config("tiny")) as gateway:
        body = {"prompt": "one two stop_at=3", "model": "tiny"}
        await gateway.client.post("/v1/completions", json=body, headers={"x-request-id": "mine-1"})
    [event] = events(log, "/v1/completions")
    assert event.pop("first_token_ms") > 0
    assert event.pop("queue_ms") >= 0
    assert event.pop("ms") > 0
    assert event.pop("time").endswith("Z")
    assert event == {
        "level": "info",
        "logger": "corral.access",
        "message": "request",
        "request_id": "mine-1",
        "method": "POST",
        "route": "/v1/completions",
        "status": 200,
        "key": "anonymous",
        "alias": "tiny",
        "model": "tiny",
        "way": "tiny -> tiny",
        "replica": "tiny/0",
        "prompt_tokens": 3,
        "cached_tokens": 0,
        "completion_tokens": 3,
        "finish": "stop",
    }


async def test_an_event_of_a_traced_client_has_its_trace(log: Path) -> None:
    async with running(config("tiny")) as gateway:
        await gateway.client.post("/completion", json={"prompt": "x"}, headers={"traceparent": PARENT})
    assert [event["trace_id"] for event in events(log, "/completion")] == [TRACE]


async def test_an_event_names_the_error_whether_the_answer_had_begun_or_not(log: Path) -> None:
    async with running(config("tiny")) as gateway:
        for body in ({"prompt": "refuse=OVERLOADED"}, {"prompt": "end_after=2", "stream": True}, {"prompt": {}}):
            await gateway.client.post("/completion", json=body)
        await gateway.client.post("/completion", json={"prompt": "x", "model": "absent"})
        async with gateway.client.stream("POST", "/completion", json={"prompt": "delay=1000", "stream": True}):
            pass
        await until(lambda: len(events(log, "/completion")) == 5)
    assert [(event["status"], event.get("error")) for event in events(log, "/completion")] == [
        (429, "Overloaded"),
        (200, "WorkerFailed"),
        (400, "InvalidRequest"),
        (404, "ModelNotFound"),
        (200, "ClientLeft"),
    ]


async def test_probes_are_quiet(log: Path) -> None:
    async with running(config("tiny")) as gateway:
        await gateway.client.get("/live")
    assert {event["level"] for event in events(log, "/live")} == {"debug"}


async def test_no_prompt_no_answer_and_no_key_is_ever_logged_at_any_level(log: Path) -> None:
    async with running(config("tiny", keys=(full_key(SECRET.encode()),))) as gateway:
        for headers in ({"Authorization": f"Bearer {SECRET}"}, {"X-Api-Key": SECRET}, {"X-Api-Key": f"{SECRET}2"}):
            for path, body in (
                ("/v1/chat/completions", {"messages": [{"role": "user", "content": f"{SECRET} crash_after=1"}]}),
                ("/v1/chat/completions", {"messages": [{"role": SECRET, "content": 5}]}),
                ("/v1/completions", {"prompt": SECRET, "model": SECRET}),
                ("/completion", {"prompt": f"{SECRET} refuse=INTERNAL", "stop": [SECRET], SECRET: SECRET}),
                ("/tokenize", {"content": SECRET}),
                (f"/{SECRET}?{SECRET}", {}),
            ):
                await gateway.client.post(path, json=body, headers=headers)
        await gateway.client.request(f"X{SECRET}", "/completion")
    text = log.read_text()  # noqa: ASYNC240 (nothing else runs here)
    assert text.count('"logger":"corral.access"') >= 18
    assert SECRET not in text
    assert "w0" not in text
