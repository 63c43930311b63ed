"""The worker processes of one model: those in service, those that warm up to take their place, those that drain.

Owned by replicaset.ReplicaSet. Workers are replaced one by one: the new one is warm before the old one drains.
Invariant: a worker in service has its index to itself, and every worker's task is awaited before it is forgotten.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator

from router.config import ModelConfig, SupervisionConfig
from router.fleet.changes import Changes
from router.fleet.lifecycle import ModelState
from router.supervision.origin import Origin, origin_of
from router.supervision.supervisor import Site, WorkerProcess
from router.supervision.tail import Tail

log = logging.getLogger("corral.fleet")


class Workers:
    """Iterating gives those in service, by index."""

    def __init__(
        self, config: SupervisionConfig, site: Callable[[], Site], changed: Callable[[], None], output: Tail
    ) -> None:
        """`site` gives each worker a place of its own; `changed` is called after every change."""
        self._output = output  # what all of them say
        self._config = config
        self._site = site
        self._changed = changed
        self._changes = Changes()
        self._serving: dict[int, WorkerProcess] = {}
        self._beside: set[WorkerProcess] = set()  # that warm up, or drain
        self._tasks: dict[WorkerProcess, asyncio.Task[None]] = {}
        self._turnover: asyncio.Task[None] | None = None
        self._farewells: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[WorkerProcess]:
        return iter([self._serving[index] for index in sorted(self._serving)])

    def __len__(self) -> int:
        return len(self._serving)

    @property
    def beside(self) -> list[WorkerProcess]:
        """Those that warm up or drain, by index."""
        return sorted(self._beside, key=lambda worker: worker.index)

    def start(self, model: ModelConfig) -> None:
        """Puts a worker for every replica into service; there must be none."""
        for index in range(model.replicas):
            self._serving[index] = self._start(model, index)
        self._tell()

    def replace(self, model: ModelConfig) -> None:
        """Other settings: those that a worker reads once bring a new worker for each old one."""
        self._end_turnover()
        self._turnover = asyncio.create_task(self._turn_over(model))

    def retire(self) -> None:
        """Takes all out of service; each stops when its open calls have ended, at once if it still loads."""
        self._end_turnover()
        workers = [*self._serving.values()]
        self._serving.clear()
        for worker in workers:
            self._retire(worker)
        self._tell()

    async def stop(self, grace: float) -> None:
        """Stops every worker and waits until no process is left. May be called again with less grace."""
        self._end_turnover()
        for worker in self._tasks:
            worker.stop(grace)
        await asyncio.gather(*self._tasks.values(), *self._farewells, return_exceptions=True)
        await asyncio.gather(*(worker.origin.close() for worker in self._tasks))

    async def _turn_over(self, model: ModelConfig) -> None:
        """From the workers there are to those of the model's settings, one at a time and the new one first."""
        for index in range(model.replicas):
            old = self._serving.get(index)
            if old is not None and old.model.loads_like(model):
                continue
            new = self._start(model, index)
            self._beside.add(new)
            try:
                while not new.settled:
                    await self._changes.wait()
            except asyncio.CancelledError:
                self._retire(new)
                raise
            if new.state is not ModelState.READY:
                log.error("%s could not be replaced: %s; the old worker stays", new.name, new.reason)
                self._retire(new)
                return
            self._beside.discard(new)
            self._serving[index] = new
            if old is not None:
                self._retire(old)
        for index in [index for index in self._serving if index >= model.replicas]:
            self._retire(self._serving.pop(index))

    def _end_turnover(self) -> None:
        if self._turnover is not None:
            self._turnover.cancel()
            self._turnover = None

    def _start(self, model: ModelConfig, index: int) -> WorkerProcess:
        origin = self._origin(model)
        worker = WorkerProcess(model, index, self._config, self._site(), origin, self._tell, self._output)
        self._tasks[worker] = asyncio.create_task(worker.run(), name=f"worker {worker.name}")
        return worker

    def _origin(self, model: ModelConfig) -> Origin:
        """Workers that could take each other's place come from the same."""
        alike = (worker.origin for worker in self._tasks if worker.model.loads_like(model))
        return next(alike, None) or origin_of(model, self._config)

    def _retire(self, worker: WorkerProcess) -> None:
        """Takes a worker out of service; a task of its own sees it off."""
        self._beside.add(worker)
        task = asyncio.create_task(self._see_off(worker))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    async def _see_off(self, worker: WorkerProcess) -> None:
        try:
            await worker.retire()
            await self._tasks[worker]
        finally:
            self._beside.discard(worker)
            self._tasks.pop(worker, None)
            if all(worker.origin is not other.origin for other in self._tasks):
                await worker.origin.close()
            self._tell()

    def _tell(self) -> None:
        self._changes.tell()
        self._changed()
