"""A fleet of mock workers, and what to ask of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from router.config import ModelConfig, ResidencyConfig
from router.fleet.fleet import Fleet
from router.fleet.lifecycle import ModelState, ModelStatus
from router.rpc.replica import Replica
from tests.router.mocks import DEADLINE, SUPERVISION, until

ANY = ResidencyConfig()

ONE = ResidencyConfig(max_models=1)


def model(name: str, *options: str, load_on_start: bool = False, **settings: object) -> ModelConfig:
    config = ModelConfig(Path(f"/models/{name}.gguf"), (name,), options, load_on_start=load_on_start)
    return replace(config, **settings)  # type: ignore[arg-type]


@asynccontextmanager
async def fleet(*models: ModelConfig, residency: ResidencyConfig = ANY) -> AsyncIterator[Fleet]:
    async with Fleet(models, SUPERVISION, residency) as started:
        yield started


async def until_state(fleet: Fleet, name: str, state: ModelState) -> ModelStatus:
    await until(lambda: fleet.status(name).state is state)
    return fleet.status(name)


def pids(fleet: Fleet, name: str) -> list[int | None]:
    return [replica.pid for replica in fleet.replicas(name)]


async def use(fleet: Fleet, name: str) -> tuple[Replica, ...]:
    with fleet.using(name):
        async with asyncio.timeout(DEADLINE):
            return tuple(await fleet.ready(name))


class Holder:
    """A request that keeps a model until it is let go."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.replicas: tuple[Replica, ...] = ()
        self._release = asyncio.Event()
        self.task = asyncio.create_task(self._run(fleet, name))

    async def _run(self, fleet: Fleet, name: str) -> None:
        with fleet.using(name):
            self.replicas = tuple(await fleet.ready(name))
            await self._release.wait()

    async def end(self) -> None:
        self._release.set()
        await self.task
