"""GET /metrics: one model as llama-server tells it, and the fleet in one scrape."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from protos import inference_pb2 as pb
from router.api.metrics import LLAMA_SERVER, Reading, exposition
from router.fleet.pace import Throughput
from tests.router.api.clients import Gateway
from tests.router.gateways import config, running

PEER = (Path(__file__).parents[2] / "parity" / "metrics.txt").read_text()


def samples(text: str) -> dict[str, float]:
    """Every series of a scrape, as `name{label="value",...}`."""
    return {
        sample.name + "".join(f"{{{name}={value}}}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_an_idle_models_text_is_llama_servers_to_the_byte() -> None:
    assert exposition("llamacpp:", LLAMA_SERVER, [("", Reading(pb.StatsReply()))]) == PEER


def test_guesses_are_counted_as_the_workers_tell() -> None:
    reading = Reading(pb.StatsReply(draft_rounds_total=2, drafted_tokens_total=6, accepted_tokens_total=5))
    lines = exposition("llamacpp:", LLAMA_SERVER, [("", reading)]).splitlines()
    for name, count in (("draft_tokens", 6), ("accepted_tokens", 5), ("drafts", 2)):
        assert f"llamacpp:spec_decode_num_{name}_total {count}" in lines


def test_numbers_are_written_as_llama_server_writes_them() -> None:
    stats = pb.StatsReply(
        prompt_tokens_total=12345678, prompt_seconds_total=0.16620412, num_steps=4, advanced_sequences_total=7
    )
    reading = Reading(stats, Throughput(prompt=74280156.7))
    lines = exposition("llamacpp:", LLAMA_SERVER, [("", reading)]).splitlines()
    for line in (
        "llamacpp:prompt_tokens_total 12345678",
        "llamacpp:prompt_seconds_total 0.166204",
        "llamacpp:prompt_tokens_seconds 7.42802e+07",
        "llamacpp:n_busy_slots_per_decode 1.75",
    ):
        assert line in lines


def test_metrics_of_one_model_have_no_label_and_those_of_all_have(two: Gateway) -> None:
    one = two.http.get("/metrics", params={"model": "other"})
    assert one.headers["content-type"] == "text/plain; version=0.0.4"
    assert re.sub(r" [\d.e+-]+$", "", one.text, flags=re.MULTILINE) == re.sub(r" 0$", "", PEER, flags=re.MULTILINE)
    everything = two.http.get("/metrics").text
    for name in ("tiny", "other"):
        assert f'llamacpp:requests_processing{{model="{name}"}} 0' in everything
    assert two.http.get("/metrics", params={"model": "absent"}).status_code == 404


def test_the_fleets_text_can_be_read_and_names_no_family_twice(two: Gateway) -> None:
    two.post("/completion", prompt="stop_at=3", model="tiny")
    text = two.http.get("/metrics").text
    assert text.endswith("\n")
    types = [line for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(types) == len(set(types)) > 25
    assert samples(text)["corral_model_ready{model=tiny}"] == 1
    assert "_created" not in text


@pytest.mark.anyio
async def test_generations_requests_and_refusals_are_counted() -> None:
    async with running(config("tiny", "other", metrics=True)) as gateway:
        for _ in range(3):
            await gateway.client.post("/v1/completions", json={"prompt": "one two stop_at=5", "model": "tiny"})
        refused = {"prompt": "refuse=OVERLOADED", "model": "other"}
        assert (await gateway.client.post("/completion", json=refused)).status_code == 429
        await gateway.client.get("/no/such/path")
        await gateway.client.get("/v1/models/tiny")
        found = samples((await gateway.client.get("/metrics")).text)
    assert found["vllm:time_to_first_token_seconds_count{model_name=tiny}"] == 3
    assert found["vllm:inter_token_latency_seconds_count{model_name=tiny}"] == 3 * 4
    assert found["vllm:e2e_request_latency_seconds_count{model_name=tiny}"] == 3
    assert found["vllm:request_queue_time_seconds_count{model_name=tiny}"] == 3
    assert found["vllm:request_success_total{finished_reason=stop}{model_name=tiny}"] == 3
    assert found["vllm:prompt_tokens_total{model_name=tiny}"] == 9
    assert found["vllm:generation_tokens_total{model_name=tiny}"] == 15
    assert found["corral_requests_total{model=tiny}{route=/v1/completions}{status=200}"] == 3
    assert found["corral_requests_total{model=other}{route=/completion}{status=429}"] == 1
    assert found["corral_requests_total{model=}{route=_unknown}{status=404}"] == 1
    assert found["corral_requests_total{model=tiny}{route=/v1/models/{model:path}}{status=200}"] == 1
    assert found["corral_refused_total{model=other}{reason=queue-full}"] == 1
    assert found["corral_requests_in_flight"] == 1
    assert "vllm:e2e_request_latency_seconds_count{model_name=other}" not in found or (
        found["vllm:e2e_request_latency_seconds_count{model_name=other}"] == 0
    )


@pytest.mark.anyio
async def test_no_request_can_make_a_new_series() -> None:
    async with running(config("tiny", metrics=True)) as gateway:
        await gateway.client.get("/warm/up")
        before = set(samples((await gateway.client.get("/metrics")).text))
        for number in range(5):
            await gateway.client.get(f"/absent/{number}")
            await gateway.client.post(f"/absent/{number}", json={"model": f"m{number}"})
        assert set(samples((await gateway.client.get("/metrics")).text)) - before <= {
            "corral_requests_total{model=}{route=/metrics}{status=200}",
            "corral_request_seconds_total{route=/metrics}",
        }


@pytest.mark.anyio
async def test_of_a_model_whose_worker_died_only_counts_are_told() -> None:
    async with running(config("good", "bad", options=["--bad-model", "bad"], metrics=True)) as gateway:
        found = samples((await gateway.client.get("/metrics")).text)
    assert found["corral_model_ready{model=bad}"] == 0
    assert found["corral_worker_crashes_total{model=bad}"] >= 1
    assert found["corral_model_loads_total{model=bad}{result=failed}"] == 1
    assert found["llamacpp:n_decode_total{model=bad}"] == 0
    assert found["corral_failovers_total{model=good}{result=failed}"] == 0, "told before there was one"
    assert found["vllm:generation_tokens_total{model_name=bad}"] == 0
    assert "llamacpp:requests_processing{model=bad}" not in found
    assert found["llamacpp:requests_processing{model=good}"] == 0
