"""What clients and operators see of workers on other hosts, and of the places of several replicas."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.commands.table import fleet_table
from router.config import GatewayConfig, ModelConfig, ResidencyConfig
from router.fleet.lifecycle import ModelState
from router.remotes.credentials import TOKEN_VARIABLE
from tests.router.gateways import Gateway, running
from tests.router.mocks import SUPERVISION, until
from tests.router.remote_workers import TOKEN, Remote, model, remotes

pytestmark = pytest.mark.anyio


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Remote]]:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    with remotes(2) as made:
        yield made


@asynccontextmanager
async def gateway_of(*models: ModelConfig) -> AsyncIterator[Gateway]:
    config = GatewayConfig(models=models, supervision=replace(SUPERVISION, longest_reconnect=0.1), metrics=True)
    async with running(config) as gateway:
        fleet = gateway.app.state.fleet
        for each in models:
            num_replicas = (each.replicas if each.path else 0) + len(each.workers)
            await until(lambda name=each.name, number=num_replicas: len(fleet.open(name)) == number)
        yield gateway


async def shown(gateway: Gateway, path: str) -> Any:
    answer = await gateway.client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_operators_see_the_addresses_of_workers_and_what_they_do(workers: list[Remote]) -> None:
    first, second = (worker.address for worker in workers)
    async with gateway_of(model(first, second)) as gateway:
        [entry] = (await shown(gateway, "/models"))["data"]
        assert [(each["address"], each["pid"], each["state"]) for each in entry["replicas"]] == [
            (first, None, "ready"),
            (second, None, "ready"),
        ]
        assert all(each["running"] == 0 for each in entry["replicas"])
        refused = await gateway.client.get("/admin/logs", params={"model": "a"})
        assert (refused.status_code, "runs on other hosts only" in refused.text) == (400, True)
        workers[1].kill()
        await until(lambda: len(gateway.app.state.fleet.open("a")) == 1)
        [told] = (await shown(gateway, "/admin/fleet"))["models"]
        assert (told["path"], told["pids"], told["state"]) == (None, [], "ready")
        assert [each["address"] for each in told["remote"]] == [first, second]
        assert told["remote"][1]["state"] in ("connecting", "unreachable")
        table = fleet_table([told])
        [cell] = next(column for column in table.columns if column.header == "pid").cells
        assert first in str(cell) and f"{second} ({told['remote'][1]['state']})" in str(cell)
        metrics = (await gateway.client.get("/metrics")).text
        assert 'corral_replicas{model="a",state="ready"} 1' in metrics


async def test_a_model_on_other_hosts_is_neither_loaded_nor_unloaded_here(workers: list[Remote]) -> None:
    async with gateway_of(model(workers[0].address)) as gateway:
        for action in ("load", "unload"):
            answer = await gateway.client.post(f"/models/{action}", json={"model": "a"})
            assert answer.status_code == 400
            assert "runs on other hosts only" in answer.json()["error"]["message"]
        assert [each["state"] for each in (await shown(gateway, "/models"))["data"][0]["replicas"]] == ["ready"]


async def test_no_worker_is_no_readiness_and_no_answer(workers: list[Remote]) -> None:
    async with gateway_of(model(workers[0].address)) as gateway:
        workers[0].kill()
        await until(lambda: not gateway.app.state.fleet.open("a"))
        assert (await gateway.client.get("/ready")).status_code == 503
        workers[0].start()
        answer = await gateway.client.post("/completion", json={"prompt": "stop_at=2"})  # it waits a while
        assert answer.json()["content"] == "w0 w1"


# ---- places -----------------------------------------------------------------------------------


async def test_the_places_of_all_replicas_are_listed_under_one_numbering(workers: list[Remote]) -> None:
    local = ModelConfig(Path("/models/a.gguf"), ("a",), replicas=2, workers=(workers[0].address,))
    async with gateway_of(local) as gateway:
        assert [slot["id"] for slot in await shown(gateway, "/slots")] == list(range(12))
        for wanted in (0, 5, 11):
            answer = await gateway.client.post("/completion", json={"prompt": "stop_at=1", "id_slot": wanted})
            assert answer.json()["id_slot"] // 4 == wanted // 4  # of that replica; its worker gives any of its places
        refused = await gateway.client.post("/completion", json={"prompt": "x", "id_slot": 12})
        assert refused.status_code == 400 and "-1 <= value <= 11, but got 12" in refused.text


async def test_a_slot_is_changed_by_the_replica_that_has_it() -> None:
    async with gateway_of(ModelConfig(Path("/models/a.gguf"), ("a",), replicas=2)) as gateway:
        erased = await gateway.client.post("/slots/6", params={"action": "erase"})
        assert erased.json() == {"id_slot": 6, "n_erased": 32}  # ten times the action, and the worker's own number
        nobody = await gateway.client.post("/slots/8", params={"action": "erase"})
        assert nobody.status_code == 400 and "Invalid slot ID" in nobody.text


async def test_a_worker_that_serves_another_model_says_so_wherever_workers_are_listed(workers: list[Remote]) -> None:
    right = workers[0].address
    with remotes(1, "--architecture", "mamba") as [wrong]:
        async with gateway_of(model(right)) as gateway:
            fleet = gateway.app.state.fleet
            fleet.apply([model(right, wrong.address)], ResidencyConfig())
            await until(lambda: any(each.state is ModelState.FAILED for each in fleet.replicas("a")))
            [entry] = (await shown(gateway, "/models"))["data"]
            ready, refused = entry["replicas"]
            assert (ready["state"], refused["state"]) == ("ready", "failed")
            assert "architecture mamba, theirs mock" in refused["reason"]
            [told] = (await shown(gateway, "/admin/fleet"))["models"]
            [note] = next(column for column in fleet_table([told]).columns if column.header == "note").cells
            assert f"{wrong.address}: {refused['reason']}" in str(note)
