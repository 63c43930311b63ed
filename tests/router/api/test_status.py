"""Health, properties and metrics."""

import re

import pytest

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


def test_metrics_of_one_model_have_no_label_and_those_of_all_have(two: Gateway) -> None:
    one = two.http.get("/metrics", params={"model": "other"})
    assert one.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert re.search(r"^llamacpp:requests_processing 0$", one.text, re.MULTILINE)
    everything = two.http.get("/metrics").text
    for name in ("tiny", "other"):
        assert f'llamacpp:requests_processing{{model="{name}"}} 0' in everything
    assert everything.count("# TYPE llamacpp:requests_processing gauge") == 1


def test_metrics_are_well_formed(two: Gateway) -> None:
    line = re.compile(
        r"# HELP llamacpp:\w+ .+|# TYPE llamacpp:\w+ (counter|gauge)|llamacpp:\w+(\{model=\"[^\"]+\"\})? [\d.e+]+"
    )
    text = two.http.get("/metrics").text
    assert text.endswith("\n")
    assert all(line.fullmatch(each) for each in text.splitlines())
