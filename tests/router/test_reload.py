"""A configuration that changes while requests run: nothing is lost, and what did not change is not touched."""

import asyncio
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from router.config import AliasConfig, GatewayConfig, ModelConfig, ResidencyConfig
from router.errors import CommandError
from router.fleet.eviction import GIB
from router.fleet.lifecycle import ModelState
from router.keys.keyfile import write_keys_file
from router.keys.keys import full_key
from router.reload import reload
from tests.router.api.test_metrics import samples
from tests.router.gateways import Gateway, config, running
from tests.router.mocks import until
from tests.router.test_serve import serving
from tests.router.test_serve import until as until_then

pytestmark = pytest.mark.anyio

NUM_CLIENTS = 6
NUM_RELOADS = 20


def with_models(*models: ModelConfig, aliases: Sequence[AliasConfig] = ()) -> GatewayConfig:
    return replace(config(), models=models, aliases=tuple(aliases))


def model(name: str, *options: str, **settings: object) -> ModelConfig:
    return replace(ModelConfig(Path(f"/models/{name}.gguf"), (name,), options), **settings)  # type: ignore[arg-type]


def pid(gateway: Gateway, name: str) -> int | None:
    return gateway.app.state.fleet.replicas(name)[0].pid


def workers_in(gateway: Gateway) -> list[psutil.Process]:
    """Those whose sockets are in this gateway's folder."""
    folder = str(Path(gateway.app.state.fleet.open("same")[0].address.removeprefix("unix:")).parent)
    return [child for child in psutil.Process().children() if any(folder in word for word in words(child))]


def words(process: psutil.Process) -> list[str]:
    """Its command line; none if it has just ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


async def client(gateway: Gateway, names: Sequence[str], ended: asyncio.Event, answers: list[tuple[int, str]]) -> None:
    """One request after the other, half of them streams."""
    number = 0
    while not ended.is_set():
        number += 1
        body = {"model": names[number % len(names)], "prompt": "stop_at=5 delay=0.03", "stream": number % 2 == 0}
        answer = await gateway.client.post("/v1/completions", json=body)
        whole = "[DONE]" in answer.text if body["stream"] else "w0 w1 w2 w3 w4" in answer.text
        answers.append((answer.status_code, "" if whole else answer.text))


async def test_twenty_reloads_under_load_fail_no_request_and_touch_nothing_that_stays() -> None:
    """F33."""
    base = [model("same"), model("changing", "--ctx-size", "1")]
    targets = [AliasConfig("chat", (("same", 1.0),)), AliasConfig("chat", (("changing", 1.0),))]
    async with running(with_models(*base, aliases=targets[:1])) as gateway:
        first, ended, answers = pid(gateway, "same"), asyncio.Event(), list[tuple[int, str]]()
        names = ("same", "changing", "chat")
        clients = [asyncio.create_task(client(gateway, names, ended, answers)) for _ in range(NUM_CLIENTS)]
        for number in range(NUM_RELOADS):
            changing = model("changing", "--ctx-size", str(number // 4 + 2))
            extra = [model(f"extra{number}")] if number % 5 == 0 else []
            new = with_models(base[0], changing, *extra, aliases=[targets[number % 2]])
            before = pid(gateway, "changing")
            reload(gateway.app, lambda new=new: new)
            if number % 4 == 0:
                await until(lambda before=before: pid(gateway, "changing") != before)
            target = len(answers) + NUM_CLIENTS
            await until(lambda target=target: len(answers) >= target)
        ended.set()
        await asyncio.gather(*clients)
        assert {answer for answer in answers} == {(200, "")}
        assert pid(gateway, "same") == first
        fleet = gateway.app.state.fleet
        await until(lambda: len(fleet.replicas("changing")) == 1)
        status = (await gateway.client.get("/props", params={"model": "changing"})).json()
        assert status["default_generation_settings"]["n_ctx"] == NUM_RELOADS // 4 + 1
        await until(lambda: len(workers_in(gateway)) == len(fleet.models()))


async def test_the_alias_changes_at_once_and_the_model_when_it_is_warm(tmp_path: Path) -> None:
    async with running(with_models(model("a"))) as gateway:
        held = model("b", "--hold", str(tmp_path / "go"))
        changes = reload(gateway.app, lambda: with_models(model("a"), held, aliases=[AliasConfig("x", (("b", 1.0),))]))
        assert list(map(str, changes)) == ["model b: start", "alias x new: in place"]
        body = {"model": "x", "prompt": "stop_at=2"}
        waiting = asyncio.create_task(gateway.client.post("/completion", json=body))
        assert (await gateway.client.get("/health")).status_code == 200
        (tmp_path / "go").touch()
        assert (await waiting).json()["content"] == "w0 w1"


async def test_what_needs_a_restart_is_refused_whole() -> None:
    async with running(with_models(model("a"))) as gateway:
        before, table = gateway.app.state.config, gateway.app.state.table
        new = replace(with_models(model("a"), model("b")), port=1, slots=False)
        with pytest.raises(CommandError, match="this needs a restart of the gateway: port, slots"):
            reload(gateway.app, lambda: new)
        assert (gateway.app.state.config, gateway.app.state.table) == (before, table)
        assert [status.name for status in gateway.app.state.fleet.models()] == ["a"]


async def test_reloads_are_counted_by_what_came_of_them() -> None:
    async with running(replace(with_models(model("a")), metrics=True)) as gateway:

        async def told() -> tuple[float, float, float, float]:
            found = samples((await gateway.client.get("/metrics")).text)
            results = [found[f"corral_config_reloads_total{{result={result}}}"] for result in ("applied", "refused")]
            last = [found[f"corral_config_last_reload_{name}"] for name in ("successful", "success_timestamp_seconds")]
            return results[0], results[1], last[0], last[1]

        *counts, at_start = await told()
        assert counts == [0, 0, 1] and at_start == pytest.approx(time.time(), abs=600)
        other = replace(gateway.app.state.config, port=1)
        with pytest.raises(CommandError):
            reload(gateway.app, lambda: other)
        assert await told() == (0, 1, 0, at_start)
        reload(gateway.app, lambda: gateway.app.state.config)
        *counts, later = await told()
        assert counts == [1, 1, 1] and later > at_start


async def test_the_file_for_which_a_reload_was_refused_is_awaited_until_one_is_applied() -> None:
    async with running(with_models(model("a"))) as gateway:

        def refuse(file: Path | None) -> GatewayConfig:
            raise CommandError("no", file=file)

        for file in (Path("missing.gguf"), None, Path("missing.gguf")):
            with pytest.raises(CommandError):
                reload(gateway.app, lambda file=file: refuse(file))
            assert gateway.app.state.awaited == file
        reload(gateway.app, lambda: gateway.app.state.config)
        assert gateway.app.state.awaited is None


async def test_how_many_models_may_be_loaded_changes_in_place() -> None:
    models = [model(name, load_on_start=False) for name in "ab"]
    async with running(with_models(*models)) as gateway:
        fleet = gateway.app.state.fleet
        await gateway.client.post("/completion", json={"model": "a", "prompt": "stop_at=1"})
        one = replace(with_models(*models), residency=ResidencyConfig(max_models=1))
        assert list(map(str, reload(gateway.app, lambda: one))) == ["residency: in place"]
        await gateway.client.post("/completion", json={"model": "b", "prompt": "stop_at=1"})
        assert [fleet.status(name).state for name in "ab"] == [ModelState.UNLOADED, ModelState.READY]


def test_revoking_the_last_key_of_a_file_leaves_nobody_who_may_call(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    keys = tmp_path / "keys.toml"
    write_keys_file(keys, [full_key(b"open sesame")])
    line = ("-m", str(tmp_path / "a.gguf"), "--keys", str(keys), "--allowed-hosts", "models.example.org")
    headers = {"Authorization": "Bearer open sesame"}
    with serving(*line) as command, httpx.Client(base_url=command.ready(), trust_env=False) as http:
        assert http.get("/v1/models", headers=headers).status_code == 200
        write_keys_file(keys, [])
        command.process.send_signal(signal.SIGHUP)
        until_then(lambda: "gone: in place" in command.output)
        assert [http.get("/v1/models", headers=each).status_code for each in (headers, {})] == [401, 401]
        assert http.get("/health").status_code == 200


async def test_a_gateway_is_not_opened_to_everyone_by_a_reload() -> None:
    async with running(config("a", keys=(full_key(b"open sesame"),), allowed_hosts=None)) as gateway:
        opened = replace(config("a"), allowed_hosts=None)
        with pytest.raises(CommandError, match=r"needs a restart of the gateway: whether a key is asked for \(no\)"):
            reload(gateway.app, lambda: opened)
        assert (await gateway.client.get("/v1/models")).status_code == 401


def test_a_gateway_reads_its_file_again_when_it_is_asked_over_http(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    file = tmp_path / "corral.toml"
    file.write_text('[models.a]\npath = "a.gguf"\n')
    with (
        serving("--config", str(file), "--no-watch") as command,
        httpx.Client(base_url=command.ready(), trust_env=False) as http,
    ):
        workers = {worker.pid for worker in command.workers()}
        file.write_text('[models.a]\npath = "a.gguf"\nttl = "soon"\n')
        refused = http.post("/admin/reload")
        assert refused.status_code == 400
        assert "corral.toml:3: models.a.ttl: expected seconds" in refused.json()["error"]["message"]
        file.write_text('[models.a]\npath = "a.gguf"\nttl = "1h"\n[models.b]\npath = "b.gguf"\n')
        changes = ["model a (ttl): in place", "model b: start"]
        assert http.post("/admin/reload").json() == {"success": True, "changes": changes}
        until_then(lambda: "b/0 is ready" in command.output)
        assert workers < {worker.pid for worker in command.workers()}


async def test_a_gateway_without_a_file_says_that_it_cannot() -> None:
    async with running(config("a")) as gateway:
        assert (await gateway.client.post("/admin/reload")).status_code == 501


def test_another_file_under_a_models_path_brings_new_workers(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    with serving("-m", str(file)) as command, httpx.Client(base_url=command.ready(), trust_env=False) as http:
        before = {worker.pid for worker in command.workers()}
        assert http.post("/admin/reload").json()["changes"] == []
        (tmp_path / "b").write_bytes(b"GGUF of another kind")
        (tmp_path / "b").replace(file)
        assert http.post("/admin/reload").json()["changes"] == ["model a (contents): warm replace"]
        until_then(lambda: before.isdisjoint(worker.pid for worker in command.workers()))
        assert http.post("/admin/reload").json()["changes"] == []


async def test_a_model_does_not_grow_beyond_the_room_there_is_by_a_reload(tmp_path: Path) -> None:
    file, room = tmp_path / "a.gguf", ResidencyConfig(memory=2 * GIB)
    file.write_bytes(b"GGUF")
    huge = tmp_path / "huge.gguf"
    with huge.open("wb") as opened:
        opened.truncate(3 * GIB)
    base = with_models(model("a", path=file))
    async with running(replace(base, residency=room)) as gateway:
        await until(lambda: gateway.app.state.fleet.status("a").state is ModelState.READY)
        before = pid(gateway, "a")
        grown = replace(with_models(model("a", path=huge)), residency=room)
        with pytest.raises(CommandError, match=r"model a: it needs about 3\.11 GiB, but models may take 2\.00 GiB"):
            reload(gateway.app, lambda: grown)
        assert gateway.app.state.config.models == base.models
        assert pid(gateway, "a") == before
