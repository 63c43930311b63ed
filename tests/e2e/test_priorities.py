"""Priorities from HTTP to the engine: a gateway before a real worker that computes one request at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from router.config import GatewayConfig
from router.policy import fairqueue
from router.remotes.credentials import TOKEN_VARIABLE
from tests.router.gateways import Gateway, running
from tests.router.mocks import SUPERVISION, until
from tests.router.remote_workers import TOKEN, model
from tests.worker.rpc.serving import Worker, serving
from worker import waiting_line

pytestmark = pytest.mark.anyio
NAMES = ("first", "low", "lower in line", "high")  # the prompt of each is its number here


@dataclass
class Scene:
    """A worker that stands still until it is released, and the requests sent to it."""

    gateway: Gateway
    worker: Worker
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def send(self, name: str, priority: int) -> None:
        """Returns once it is computed, or in the line of the gateway or the worker."""
        self._tasks.append(asyncio.create_task(self._ask(NAMES.index(name), priority)))
        await until(lambda: self.worker.num_submitted + self.num_held == len(self._tasks))
        await until(self.worker.model.entered.is_set)

    @property
    def num_held(self) -> int:
        return int(self.gateway.app.state.policies.dispatcher.num_waiting("a"))

    async def release(self) -> list[str]:
        """Their names, in the order in which they were computed."""
        computed, forward = [], self.worker.model.forward

        def watched(tokens: npt.NDArray[np.int32], *others: Any) -> Any:
            computed.extend(NAMES[token] for token in tokens[:-1])  # a prompt has two of its own, an answer's step one
            return forward(tokens, *others)

        self.worker.model.forward = watched
        self.worker.model.gate.set()
        await asyncio.gather(*self._tasks)
        return computed

    async def _ask(self, token: int, priority: int) -> None:
        body = {"prompt": [token, token], "n_predict": 3, "ignore_eos": True, "priority": priority}
        answer = await self.gateway.client.post("/completion", json=body)
        assert answer.status_code == 200, answer.text


@asynccontextmanager
async def scene(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    async with serving(folder, token=TOKEN, max_running=1) as worker:
        worker.model.gate.clear()
        config = GatewayConfig(models=(model(f"unix:{folder}/worker.sock"),), supervision=SUPERVISION)
        async with running(config) as gateway:
            yield Scene(gateway, worker)


async def test_a_higher_priority_goes_before_those_that_came_earlier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(tmp_path, monkeypatch) as line:
        await line.send("first", 9)
        await line.send("low", 0)
        await line.send("lower in line", 0)
        assert line.num_held == 1  # the worker has as much as it needs
        await line.send("high", 9)
        assert line.num_held == 1  # but for one that is to overtake
        assert await line.release() == ["high", "low", "lower in line"]


@pytest.mark.parametrize(
    ("lines", "order"),
    [
        ((fairqueue, waiting_line), ["low", "lower in line", "high"]),
        ((waiting_line,), ["low", "high", "lower in line"]),  # the gateway lets it overtake
    ],
)
async def test_a_low_priority_that_has_waited_long_enough_goes_first(
    lines: tuple[ModuleType, ...], order: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in lines:
        monkeypatch.setattr(each, "HEAD_START", 1e-9)  # seconds: everybody has waited longer than that is worth
    async with scene(tmp_path, monkeypatch) as line:
        for name, priority in (("first", 9), ("low", 0), ("lower in line", 0), ("high", 9)):
            await line.send(name, priority)
        assert await line.release() == order
