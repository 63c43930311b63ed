import asyncio
from pathlib import Path

import pytest

from router.app import ROUTES
from tests.router.gateways import config, running
from tests.router.mocks import until

pytestmark = pytest.mark.anyio

LOADING = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'


def test_no_route_stands_twice() -> None:
    pairs = [(method, path) for method, path, *_ in ROUTES]
    assert len(set(pairs)) == len(pairs)


async def test_unknown_paths_and_methods_are_refused_in_llama_servers_words() -> None:
    async with running(config("a"), wait=False) as gateway:
        absent = await gateway.client.get("/absent")
        assert absent.status_code == 404
        assert absent.content == b'{"error":{"message":"File Not Found","type":"not_found_error","code":404}}'
        wrong = await gateway.client.get("/v1/chat/completions")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        assert wrong.json()["error"]["type"] == "invalid_request_error"
        assert (await gateway.client.get("/docs")).status_code == 404
        assert (await gateway.client.get("/openapi.json")).status_code == 404


async def test_while_loading_health_and_requests_answer_503_as_llama_server_does(tmp_path: Path) -> None:
    async with running(config("a", options=["--hold", str(tmp_path / "go")]), wait=False) as gateway:
        for answer in (
            await gateway.client.get("/health"),
            await gateway.client.get("/ready"),
            await gateway.client.post("/v1/completions", json={"prompt": "x"}),
        ):
            assert (answer.status_code, answer.content) == (503, LOADING)
        assert (await gateway.client.get("/live")).status_code == 200
        (tmp_path / "go").touch()
        await until(lambda: gateway.app.state.fleet.settled)
        assert (await gateway.client.get("/health")).json() == {"status": "ok"}


async def test_a_model_that_failed_leaves_the_others_serving() -> None:
    async with running(config("good", "bad", options=["--bad-model", "bad"])) as gateway:
        assert (await gateway.client.get("/health")).status_code == 200
        failed = await gateway.client.post("/v1/completions", json={"model": "bad", "prompt": "x"})
        assert failed.status_code == 500
        assert failed.json()["error"]["message"] == "model 'bad' failed: /models/bad.gguf: not a GGUF file"
        served = await gateway.client.post("/v1/completions", json={"model": "good", "prompt": "stop_at=2"})
        assert served.json()["choices"][0]["text"] == "w0 w1"


async def test_draining_refuses_readiness_but_still_serves() -> None:
    async with running(config("a")) as gateway:
        gateway.app.state.fleet.begin_drain()
        assert (await gateway.client.get("/ready")).status_code == 503
        assert (await gateway.client.get("/health")).status_code == 200
        assert (await gateway.client.post("/v1/completions", json={"prompt": "x"})).status_code == 200


async def test_many_clients_share_one_worker() -> None:
    async with running(config("a")) as gateway:
        body = {"prompt": "stop_at=5", "model": "a"}
        answers = await asyncio.gather(*(gateway.client.post("/v1/completions", json=body) for _ in range(40)))
        assert {answer.json()["choices"][0]["text"] for answer in answers} == {"w0 w1 w2 w3 w4"}
