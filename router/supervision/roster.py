"""The workers of one model that have a task, from their start until they have been seen off.

Owned by workers.Workers, for processes, and by remoteset.RemoteWorkers, for workers on other hosts; both decide who is
in service. Invariant: every worker's task is awaited before the worker is forgotten, however it ends.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Generic, Protocol, TypeVar


class Employed(Protocol):
    """What is needed of supervisor.WorkerProcess and remote.RemoteWorker."""

    index: int

    @property
    def name(self) -> str: ...

    async def run(self) -> None: ...

    async def retire(self) -> None: ...

    def stop(self, grace: float) -> None: ...


Worker = TypeVar("Worker", bound=Employed)


class Roster(Generic[Worker]):
    """Iterating gives all of them, those that drain too."""

    def __init__(self, left: Callable[[Worker], Awaitable[None]]) -> None:
        """`left` is called with each that has been seen off."""
        self._left = left
        self._tasks: dict[Worker, asyncio.Task[None]] = {}
        self._beside: set[Worker] = set()
        self._farewells: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._tasks)

    @property
    def beside(self) -> list[Worker]:
        """Those that are not in service, by index: they warm up, or drain."""
        return sorted(self._beside, key=lambda worker: worker.index)

    def start(self, worker: Worker, *, serving: bool = True) -> None:
        """Begins its life, in service or beside it."""
        self._tasks[worker] = asyncio.create_task(worker.run(), name=f"worker {worker.name}")
        if not serving:
            self._beside.add(worker)

    def serve(self, worker: Worker) -> None:
        """One that has warmed up is in service."""
        self._beside.discard(worker)

    def retire(self, worker: Worker) -> None:
        """It leaves service; a task of its own sees it off, once its open calls have ended."""
        self._beside.add(worker)
        task = asyncio.create_task(self._see_off(worker))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    async def stop(self, grace: float) -> None:
        """Stops all and waits for their ends. May be called again with less grace."""
        for worker in self._tasks:
            worker.stop(grace)
        await asyncio.gather(*self._tasks.values(), *self._farewells, return_exceptions=True)

    async def _see_off(self, worker: Worker) -> None:
        try:
            await worker.retire()
            await self._tasks[worker]
        finally:
            self._beside.discard(worker)
            self._tasks.pop(worker, None)
            await self._left(worker)
