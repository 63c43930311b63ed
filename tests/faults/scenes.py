# ruff: noqa: ASYNC110 (polling with a deadline)
"""Scenes for faults: a gateway with mock workers behind it, requests under way, and what may be seen of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from protos import inference_pb2 as pb
from router.config import ModelConfig
from router.fleet.lifecycle import ModelState, ReplicaStatus
from tests.faults.answers import Answer, chat
from tests.router.gateways import Gateway, config, running
from tests.router.mocks import DEADLINE, SUPERVISION, until

PATIENT = replace(SUPERVISION, max_crashes=100, probe_timeout=DEADLINE)  # a slow machine is no fault
WATCHFUL = replace(PATIENT, probe_interval=0.05, probe_timeout=1.0, probes=3)
SLOW = "delay=0.02"


@asynccontextmanager
async def gateway(
    *names: str, replicas: int = 1, options: tuple[str, ...] = (), **settings: Any
) -> AsyncIterator[Gateway]:
    """Mock models with so many replicas each, all ready."""
    models = tuple(ModelConfig(Path(f"/models/{name}.gguf"), (name,), (), replicas) for name in names or ("a",))
    async with running(config(**{"supervision": PATIENT, **settings, "models": models})) as started:
        for name in names or ("a",):
            await until(lambda name=name: all_ready(started, name, replicas))  # type: ignore[misc]
        yield started


def statuses(started: Gateway, model: str = "a") -> list[ReplicaStatus]:
    return list(started.app.state.fleet.replicas(model))


def all_ready(started: Gateway, model: str, num: int) -> bool:
    return [each.state for each in statuses(started, model)] == [ModelState.READY] * num


def asking(directives: str, model: str = "a", **more: Any) -> dict[str, Any]:
    options = {"stream_options": {"include_usage": True}} if more.get("stream", True) else {}
    return {"model": model, "stream": True, "messages": [{"role": "user", "content": directives}], **options, **more}


def words(number: int) -> str:
    return " ".join(f"w{word}" for word in range(number))


class Streams:
    """Several answers under way, and how far they all are."""

    def __init__(self, started: Gateway, bodies: list[dict[str, Any]]) -> None:
        self.num_events = [0] * len(bodies)
        self._tasks = [
            asyncio.create_task(chat(started.client, body, lambda index=index: self._hear(index)))  # type: ignore[misc]
            for index, body in enumerate(bodies)
        ]

    def _hear(self, index: int) -> None:
        self.num_events[index] += 1

    async def begun(self, num_events: int = 3) -> None:
        await until(lambda: min(self.num_events) >= num_events)

    def leave(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def answers(self) -> list[Answer]:
        return await asyncio.gather(*self._tasks)


async def stats(started: Gateway, index: int = 0) -> pb.StatsReply:
    replica = started.app.state.fleet.open("a")[index]
    return await replica.stats(pb.StatsRequest())


async def nothing_runs(started: Gateway) -> None:
    async with asyncio.timeout(DEADLINE):
        while (await stats(started)).num_running:
            await asyncio.sleep(0.01)
