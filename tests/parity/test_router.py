"""Router mode's API beside what the peer has answered: the same statuses, errors, fields and kinds of values."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from router.config import ModelConfig
from tests.parity.record_router import RECORD
from tests.router.gateways import Gateway, config, running
from tests.router.mocks import DEADLINE

pytestmark = pytest.mark.anyio

RECORDED = json.loads(RECORD.read_text())["answers"]
BAD_MODEL = ("--exit-code", "2")


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """The models of the record, of which one is no good."""
    found = {"load_on_start": False, "source": "models_dir"}
    models = (
        ModelConfig(Path("models/bad.gguf"), ("bad",), BAD_MODEL, **found),  # type: ignore[arg-type]
        ModelConfig(Path("models/good.gguf"), ("good",), **found),  # type: ignore[arg-type]
        ModelConfig(Path("/models/named.gguf"), ("named",), load_on_start=False),
    )
    async with running(config(models=models)) as started:
        yield started


async def test_every_answer_is_of_the_peers_kind(gateway: Gateway) -> None:
    for recorded in RECORDED:
        question, theirs = recorded["question"], recorded["json"]
        await _until(gateway, question["once"] or {})
        answer = await gateway.client.request(question["method"], question["path"], json=question["body"])
        ours, what = answer.json(), (question["method"], question["path"], question["body"])
        assert answer.status_code == recorded["status"], what
        if "error" in theirs:
            assert (ours["error"]["type"], ours["error"]["code"]) == (theirs["error"]["type"], theirs["error"]["code"])
        elif "data" in theirs:
            _compare(ours["data"], theirs["data"])
        else:
            assert ours == theirs, what


def _compare(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    entries = {entry["id"]: entry for entry in ours}
    assert entries.keys() == {entry["id"] for entry in theirs}
    for entry in theirs:
        mine = entries[entry["id"]]
        assert _kinds(mine).items() >= _kinds(entry).items()
        assert _kinds(mine["status"]).items() >= _kinds(entry["status"]).items()
        for field in ("source", "can_remove", "object", "owned_by", "architecture"):
            assert mine[field] == entry[field], field
        for field in ("value", "failed"):
            assert mine["status"].get(field) == entry["status"].get(field), field
        assert ("exit_code" in mine["status"]) == ("exit_code" in entry["status"])
        assert mine["status"]["preset"].startswith(f"[{entry['id']}]\n")
        if "meta" in entry:
            assert _kinds(mine["meta"]) == _kinds(entry["meta"])


def _kinds(fields: dict[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in fields.items()}


async def _until(gateway: Gateway, states: dict[str, tuple[str, bool]]) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            listed = (await gateway.client.get("/models")).json()["data"]
            known = {entry["id"]: [entry["status"]["value"], entry["status"].get("failed", False)] for entry in listed}
            if all(known[name] == list(state) for name, state in states.items()):
                return
            await asyncio.sleep(0.01)
