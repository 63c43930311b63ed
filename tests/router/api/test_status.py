"""Health and properties."""

import pytest

from router.api import status
from router.config import LimitsConfig
from tests.router.api.clients import Gateway
from tests.router.gateways import config, running


@pytest.mark.parametrize("path", ["/health", "/v1/health", "/live", "/ready"])
def test_a_healthy_gateway_is_ok(tiny: Gateway, path: str) -> None:
    assert tiny.http.get(path).text == '{"status":"ok"}'


@pytest.mark.anyio
async def test_while_loading_everything_but_liveness_says_so() -> None:
    loading = '{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
    async with running(config("tiny", options=["--load-seconds", "3600"]), wait=False) as gateway:
        for path in ("/health", "/v1/health", "/ready", "/props"):
            answer = await gateway.client.get(path)
            assert (answer.status_code, answer.text) == (503, loading)
        answer = await gateway.client.post("/completion", json={"prompt": "a", "stream": True})
        assert (answer.status_code, answer.text) == (503, loading)
        assert (await gateway.client.get("/live")).status_code == 200
        listed = (await gateway.client.get("/v1/models")).json()["data"][0]
        assert (listed["id"], listed["meta"], listed["status"]["value"]) == ("tiny", None, "loading")


@pytest.mark.anyio
async def test_endpoints_that_were_not_turned_on_say_how_to() -> None:
    async with running(config("tiny", metrics=False, slots=False)) as gateway:
        for name in ("metrics", "slots"):
            answer = await gateway.client.get(f"/{name}")
            assert answer.status_code == 501
            expected = f"This server does not support {name} endpoint. Start it with `--{name}`"
            assert answer.json()["error"]["message"] == expected


def test_properties_are_the_models(tiny: Gateway) -> None:
    shown = tiny.http.get("/props").json()
    assert shown["default_generation_settings"]["n_ctx"] == 2048
    assert shown["default_generation_settings"]["params"]["seed"] == 4294967295
    assert "stop" not in shown["default_generation_settings"]["params"]
    assert (shown["total_slots"], shown["model_alias"], shown["model_path"]) == (4, "tiny", "/models/tiny.gguf")
    assert (shown["chat_template"], shown["bos_token"], shown["eos_token"]) == ("{{ messages }}", "<s>", "</s>")
    assert shown["build_info"].startswith("b")


def test_with_several_models_properties_need_a_name(two: Gateway) -> None:
    assert two.http.get("/props").json()["role"] == "router"
    assert two.http.get("/props", params={"model": "other"}).json()["model_alias"] == "other"
    assert two.http.get("/props", params={"model": "absent"}).status_code == 404


def test_deep_health_is_a_token_of_every_model(two: Gateway) -> None:
    answer = two.http.get("/health/deep")
    assert answer.status_code == 200
    assert [each["name"] for each in answer.json()["models"]] == ["tiny", "other"]
    only = two.http.get("/health/deep", params={"model": "other"}).json()
    assert only["status"] == "ok" and only["models"][0]["ms"] > 0


@pytest.mark.anyio
async def test_deep_health_goes_through_the_real_line_and_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(status, "DEEP_SECONDS", 0.2)
    async with running(config("tiny", limits=LimitsConfig(in_flight=1))) as gateway:
        body = {"prompt": "stop_at=100000 delay=1000", "stream": True}
        async with gateway.client.stream("POST", "/completion", json=body) as busy:
            assert busy.status_code == 200
            answer = await gateway.client.get("/health/deep")
            assert answer.status_code == 503
            assert answer.json()["error"]["message"] == "model 'tiny' gave no token in 0.2 s (0 requests wait)"
        monkeypatch.setattr(status, "DEEP_SECONDS", 30.0)
        assert (await gateway.client.get("/health/deep")).status_code == 200


@pytest.mark.anyio
async def test_deep_health_tells_of_a_model_that_failed_while_health_is_ok() -> None:
    async with running(config("good", "bad", options=["--bad-model", "bad"])) as gateway:
        assert (await gateway.client.get("/health")).status_code == 200
        answer = await gateway.client.get("/health/deep")
        assert answer.status_code == 503
        assert answer.json()["error"]["message"].startswith("model 'bad': ")
