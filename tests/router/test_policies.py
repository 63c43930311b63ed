# ruff: noqa: ASYNC110 (polling with a deadline)
"""Aliases, keys and lines through the whole gateway, with mock workers."""

import asyncio
import json
import logging
import signal
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from router.config import AliasConfig, FallbackConfig, KeyConfig, LimitsConfig, Reason, Scope, ShadowConfig
from router.fleet.lifecycle import ModelState
from router.keys.keys import key_digest
from tests.router.api.test_metrics import samples
from tests.router.gateways import Gateway, config, running
from tests.router.mocks import DEADLINE, SUPERVISION, until
from tests.router.test_serve import serving
from tests.router.test_serve import until as until_then

pytestmark = pytest.mark.anyio


async def complete(gateway: Gateway, prompt: str = "stop_at=2", key: str = "", **body: object) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return await gateway.client.post("/completion", json={"prompt": prompt, **body}, headers=headers)


def corral_headers(answer: httpx.Response) -> dict[str, str]:
    return {name.removeprefix("x-corral-"): value for name, value in answer.headers.items() if "x-corral" in name}


def alias(name: str, *targets: str, **policy: object) -> AliasConfig:
    return AliasConfig(name, tuple((target, 1.0) for target in targets), **policy)  # type: ignore[arg-type]


def counted(gateway: Gateway, name: str) -> dict[str, float]:
    """The series of one counter that are not zero, as `{label=value}...`."""
    found = samples(gateway.app.state.policies.metrics.text())
    return {series.removeprefix(f"{name}_total"): count for series, count in found.items() if name in series and count}


def key(name: str, **settings: object) -> KeyConfig:
    return KeyConfig(name, key_digest(name.encode()), **settings)  # type: ignore[arg-type]


# ---- aliases ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_every_answer_tells_who_gave_it(stream: bool) -> None:
    async with running(config("a", "b", aliases=(alias("chat", "b"),))) as gateway:
        expected = {"model": "b", "replica": "b/0", "route": "chat -> b"}
        assert corral_headers(await complete(gateway, model="chat", stream=stream)) == expected
        body = {"model": "chat", "content": "x y"}
        assert corral_headers(await gateway.client.post("/tokenize", json=body)) == expected


async def test_overlays_fill_in_and_force_under_every_spelling() -> None:
    policy = alias("short", "a", defaults={"n_predict": 3, "top_k": 7}, forced={"temperature": 0.25})
    async with running(config("a", aliases=(policy,))) as gateway:
        plain = (await complete(gateway, "stop_at=9", model="short", temperature=2)).json()
        assert plain["content"] == "w0 w1 w2"
        assert plain["generation_settings"]["temperature"] == 0.25
        own = (await complete(gateway, "stop_at=9", model="short", max_tokens=1, top_k=9)).json()
        assert (own["content"], own["generation_settings"]["top_k"]) == ("w0", 9)


@pytest.mark.parametrize(
    ("code", "reason"),
    [("UNAVAILABLE", "unavailable"), ("OVERLOADED", "overloaded"), ("CONTEXT_EXCEEDED", "context")],
)
async def test_a_fallback_serves_and_is_told(code: str, reason: str) -> None:
    policy = alias("chat", "small", fallbacks=(FallbackConfig("big", frozenset({Reason(reason)})),))
    settings = config("small", "big", aliases=(policy,), supervision=replace(SUPERVISION, recovery_wait=0.2))
    async with running(settings) as gateway:
        answer = await complete(gateway, f"only_on=small refuse={code} stop_at=2", model="chat")
        assert answer.json()["content"] == "w0 w1 w2 w3 w4 w5 w6 w7"
        assert corral_headers(answer)["route"] == f"chat -> small ({reason}) -> big"
        way = f"{{alias=chat}}{{fallback=big}}{{model=small}}{{reason={reason}}}"
        assert counted(gateway, "corral_fallbacks") == {way: 1}
        assert counted(gateway, "corral_refused") == {}


async def test_a_failure_that_no_fallback_is_for_is_answered_as_it_is() -> None:
    policy = alias("chat", "small", fallbacks=(FallbackConfig("big", frozenset({Reason.CONTEXT})),))
    async with running(config("small", "big", aliases=(policy,))) as gateway:
        answer = await complete(gateway, "only_on=small refuse=OVERLOADED", model="chat")
        assert (answer.status_code, corral_headers(answer)["route"]) == (429, "chat -> small")
        assert counted(gateway, "corral_refused") == {"{model=small}{reason=queue-full}": 1}


async def test_nothing_falls_back_once_an_answer_has_begun() -> None:
    policy = alias("chat", "small", fallbacks=(FallbackConfig("big"),))
    async with running(config("small", "big", aliases=(policy,))) as gateway:
        answer = await complete(gateway, "only_on=small crash_after=2", model="chat")
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "request_poisonous"
        moves = {"{model=small}{result=continued}": 1, "{model=small}{result=failed}": 1}
        assert counted(gateway, "corral_failovers") == moves
        assert counted(gateway, "vllm:request_success") == {"{finished_reason=error}{model_name=small}": 1}
    impatient = replace(SUPERVISION, recovery_wait=0.0)
    async with running(config("small", "big", aliases=(policy,), supervision=impatient)) as gateway:
        answer = await complete(gateway, "only_on=small crash_after=2", model="chat")
        assert (answer.status_code, corral_headers(answer)["route"]) == (503, "chat -> small")
        assert counted(gateway, "corral_failovers") == {"{model=small}{result=failed}": 1}


@pytest.mark.parametrize(
    ("prompt", "outcome"), [("stop_at=3", "the same 8 characters"), ("only_on=a stop_at=3", "differs")]
)
async def test_a_shadow_is_compared_in_the_log_without_a_word_of_it(
    caplog: pytest.LogCaptureFixture, prompt: str, outcome: str
) -> None:
    caplog.set_level(logging.INFO, "corral.shadow")
    async with running(config("a", "b", aliases=(alias("chat", "a", shadow=ShadowConfig("b")),))) as gateway:
        answer = await complete(gateway, prompt, model="chat")
        assert answer.json()["content"] == "w0 w1 w2"
        await until(lambda: any("shadow of chat on b" in record.getMessage() for record in caplog.records))
        [record] = [record for record in caplog.records if record.name == "corral.shadow"]
        assert outcome in record.getMessage()
        assert "w0" not in record.getMessage()
        result = "same" if "same" in outcome else "differs"
        assert counted(gateway, "corral_shadow_copies") == {f"{{alias=chat}}{{model=b}}{{result={result}}}": 1}


async def test_a_shadow_that_fails_does_not_touch_the_answer() -> None:
    async with running(config("a", "b", aliases=(alias("chat", "a", shadow=ShadowConfig("b")),))) as gateway:
        answer = await complete(gateway, "only_on=b crash_after=1 stop_at=2", model="chat")
        assert (answer.status_code, corral_headers(answer)["route"]) == (200, "chat -> a")


async def test_a_shadow_takes_no_place_from_those_who_wait_for_its_model(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "corral.shadow")
    policy = alias("chat", "a", shadow=ShadowConfig("b"))
    async with running(config("a", "b", aliases=(policy,), limits=LimitsConfig(in_flight=1))) as gateway:
        waiting = gateway.app.state.policies.dispatcher.num_waiting
        busy = [asyncio.create_task(complete(gateway, "stop_at=5000 delay=0.05", model="b")) for _ in range(2)]
        await until(lambda: waiting("b") == 1)
        body = {"model": "chat", "prompt": "stop_at=1"}
        await gateway.client.post("/completion", json=body, headers={"x-request-id": "first"})
        for task in busy:
            task.cancel()
        await until(lambda: waiting("b") == 0)
        await gateway.client.post("/completion", json=body, headers={"x-request-id": "second"})
        await until(lambda: any("request second" in record.getMessage() for record in caplog.records))
        assert not any("request first" in record.getMessage() for record in caplog.records)
        ends = {f"{{alias=chat}}{{model=b}}{{result={result}}}": 1 for result in ("dropped", "same")}
        assert counted(gateway, "corral_shadow_copies") == ends


async def test_a_shadow_ends_when_the_client_leaves() -> None:
    policy = alias("chat", "a", shadow=ShadowConfig("b"))
    async with running(config("a", "b", aliases=(policy,))) as gateway:
        [replica] = gateway.app.state.fleet.open("b")
        leaving = asyncio.create_task(complete(gateway, "stop_at=100000 delay=0.05", model="chat"))
        await until(lambda: replica.num_open == 1)
        leaving.cancel()
        await until(lambda: replica.num_open == 0)
        await until(lambda: counted(gateway, "corral_shadow_copies") == {"{alias=chat}{model=b}{result=cut}": 1})
        assert counted(gateway, "vllm:request_success") == {"{finished_reason=abort}{model_name=a}": 1}


async def test_a_shadow_obeys_the_limit_of_requests_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "corral.shadow")
    policy = alias("chat", "a", shadow=ShadowConfig("b"))
    async with running(config("a", "b", aliases=(policy,), limits=LimitsConfig(in_flight=1, queue=0))) as gateway:
        [replica] = gateway.app.state.fleet.open("b")
        busy = asyncio.create_task(complete(gateway, "stop_at=100000 delay=0.05", model="b"))
        await until(lambda: replica.num_open == 1)
        assert (await complete(gateway, "stop_at=1", model="chat")).status_code == 200
        await until(lambda: any("limits.queue" in record.getMessage() for record in caplog.records))
        await until(lambda: counted(gateway, "corral_shadow_copies") == {"{alias=chat}{model=b}{result=failed}": 1})
        busy.cancel()


async def test_a_shadow_never_loads_its_model() -> None:
    policy = alias("chat", "a", shadow=ShadowConfig("b"))
    given = config("a", "b", aliases=(policy,))
    asleep = replace(given.models[1], load_on_start=False)
    async with running(replace(given, models=(given.models[0], asleep))) as gateway:
        for _ in range(2):
            assert (await complete(gateway, "stop_at=1", model="chat")).status_code == 200
        assert gateway.app.state.fleet.status("b").state is ModelState.UNLOADED


# ---- keys -------------------------------------------------------------------------------------


async def test_a_key_sees_and_reaches_its_models_only() -> None:
    async with running(config("a", "b", keys=(key("k", models=("a",)),))) as gateway:
        headers = {"Authorization": "Bearer k"}
        listed = (await gateway.client.get("/v1/models", headers=headers)).json()["data"]
        assert [entry["id"] for entry in listed] == ["a"]
        assert (await complete(gateway, key="k", model="a")).status_code == 200
        refused = await complete(gateway, key="k", model="b")
        assert (refused.status_code, refused.json()["error"]["message"]) == (403, "key 'k' may not use model 'b'")
        for path in ("/v1/models/b", "/props?model=b"):
            assert (await gateway.client.get(path, headers=headers)).status_code == 403
        assert (await complete(gateway, key="unknown", model="a")).status_code == 401
        assert counted(gateway, "corral_refused") == {"{model=}{reason=rights}": 3, "{model=}{reason=key}": 1}


async def test_used_up_limits_are_told_as_openai_tells_them() -> None:
    async with running(config("a", keys=(key("k", requests_per_minute=2, tokens_per_minute=10_000),))) as gateway:
        first = await complete(gateway, key="k")
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-ratelimit-limit-tokens"] == "10000"
        await complete(gateway, key="k")
        refused = await complete(gateway, key="k")
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert counted(gateway, "corral_refused") == {"{model=a}{reason=limits}": 1}


async def test_tokens_are_settled_to_what_was_really_used() -> None:
    async with running(config("a", keys=(key("k", tokens_per_minute=600),))) as gateway:
        for _ in range(5):  # each reserves 500 and uses 4
            assert (await complete(gateway, "x stop_at=2", key="k", max_tokens=500)).status_code == 200


async def test_a_client_that_leaves_gives_its_place_among_the_concurrent_ones_back() -> None:
    scopes = frozenset({Scope.INFER, Scope.METRICS})
    async with running(config("a", keys=(key("k", concurrent=1, scopes=scopes),))) as gateway:
        task = asyncio.create_task(complete(gateway, "stop_at=100000 delay=1000", key="k"))
        async with asyncio.timeout(DEADLINE):
            while not await num_running(gateway):
                await asyncio.sleep(0.01)
            assert (await complete(gateway, key="k")).status_code == 429
            task.cancel()
            while (await complete(gateway, key="k")).status_code == 429:
                await asyncio.sleep(0.01)


async def num_running(gateway: Gateway) -> int:
    slots = await gateway.client.get("/slots", headers={"Authorization": "Bearer k"})
    return sum(slot["is_processing"] for slot in slots.json())


# ---- lines ------------------------------------------------------------------------------------


async def test_a_full_line_refuses_and_serves_those_it_took() -> None:
    limits = LimitsConfig(queue=2, in_flight=1)
    async with running(config("a", limits=limits)) as gateway:
        prompt = "stop_at=4 delay=0.1"
        answers = await asyncio.gather(*(complete(gateway, prompt) for _ in range(9)))
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 6
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert corral_headers(refused)["queue-position"] == "3"
        late = [corral_headers(answer) for answer in answers if "x-corral-queue-position" in answer.headers]
        assert len(late) == 8 and all(int(headers["queue-wait-ms"]) > 0 for headers in late)
        waited = [corral_headers(answer).get("queue-position") for answer in answers if answer.status_code == 200]
        assert sorted(map(str, waited)) == ["1", "2", "None"]


async def test_a_request_of_many_prompts_is_taken_whole() -> None:
    async with running(config("a", limits=LimitsConfig(queue=1, in_flight=1))) as gateway:
        answer = await gateway.client.post("/completion", json={"prompt": ["stop_at=1"] * 20})
        assert [each["content"] for each in answer.json()] == ["w0"] * 20


# ---- names of this server ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:80", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("a.localhost", 200),
        ("OURS.example", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
async def test_a_page_under_another_name_is_refused(host: str, status: int) -> None:
    async with running(config("a", allowed_hosts=("ours.example",))) as gateway:
        assert (await gateway.client.get("/v1/models", headers={"Host": host})).status_code == status


# ---- reload -----------------------------------------------------------------------------------


async def test_a_request_keeps_the_table_it_began_with() -> None:
    async with running(config("a", "b", aliases=(alias("x", "a"),))) as gateway:
        old = gateway.app.state.table
        task = asyncio.create_task(complete(gateway, "stop_at=4 delay=0.1", model="x"))
        await until(lambda: gateway.app.state.policies.dispatcher._admission._queues.get("a") is not None)
        gateway.app.state.table = old.__class__.of(config("a", "b", aliases=(alias("x", "b"),)))
        assert corral_headers(await task)["model"] == "a"
        assert corral_headers(await complete(gateway, model="x"))["model"] == "b"


def test_sighup_takes_a_good_file_and_refuses_a_bad_one(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    file = tmp_path / "corral.toml"
    good = '[models.a]\npath = "a.gguf"\n[aliases]\n'
    file.write_text(good + 'one = "a"\n')

    def names(url: str) -> list[str]:
        return [each["id"] for each in httpx.get(f"{url}/v1/models", trust_env=False).json()["data"]]

    with serving("--config", str(file)) as command:
        url = command.ready()
        assert names(url) == ["a", "one"]
        for text, said in (
            (good + 'two = "b"\n', "no model is called 'b'"),
            (good + 'two = "a"\n[server]\nslots = false\n', "this needs a restart of the gateway: slots"),
            (good + '[aliases.two]\ntarget = "a"\nforced = { model = "x" }\n', "corral.toml:4: aliases.two.forced: "),
        ):
            file.write_text(text)
            command.process.send_signal(signal.SIGHUP)
            until_then(lambda said=said: said in command.output)
            assert names(url) == ["a", "one"]
        file.write_text(good + 'two = "a"\n')
        command.process.send_signal(signal.SIGHUP)
        until_then(lambda: "reloaded: alias one gone: in place; alias two new: in place" in command.output)
        assert names(url) == ["a", "two"]
        assert json.loads(httpx.get(f"{url}/health", trust_env=False).text) == {"status": "ok"}
