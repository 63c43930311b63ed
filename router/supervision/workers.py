"""The worker processes of one model: those in service, those that warm up to take their place, those that drain.

Owned by replicaset.ReplicaSet. Workers are replaced one by one: the new one is warm before the old one drains.
Invariant: a worker in service has its index to itself.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator

from router.config import ModelConfig, SupervisionConfig
from router.fleet.changes import Changes
from router.fleet.lifecycle import ModelState
from router.fleet.tally import Tally
from router.supervision.origin import Origin, origin_of
from router.supervision.roster import Roster
from router.supervision.supervisor import Site, WorkerProcess
from router.supervision.tail import Tail

log = logging.getLogger("corral.fleet")


class Workers:
    """Iterating gives those in service, by index."""

    def __init__(
        self,
        config: SupervisionConfig,
        site: Callable[[], Site],
        changed: Callable[[], None],
        output: Tail,
        tally: Tally,
    ) -> None:
        """`site` gives each worker a place of its own; `changed` is called after every change."""
        self._output = output  # what all of them say
        self._tally = tally  # what all of them count
        self._config = config
        self._site = site
        self._changed = changed
        self._changes = Changes()
        self._serving: dict[int, WorkerProcess] = {}
        self._roster = Roster[WorkerProcess](self._left)
        self._turnover: asyncio.Task[None] | None = None

    def __iter__(self) -> Iterator[WorkerProcess]:
        return iter([self._serving[index] for index in sorted(self._serving)])

    def __len__(self) -> int:
        return len(self._serving)

    @property
    def beside(self) -> list[WorkerProcess]:
        """Those that warm up or drain, by index."""
        return self._roster.beside

    def start(self, model: ModelConfig) -> None:
        """Puts a worker for every replica into service; there must be none."""
        for index in range(model.replicas):
            self._serving[index] = worker = self._new(model, index)
            self._roster.start(worker)
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
            self._roster.retire(worker)
        self._tell()

    async def stop(self, grace: float) -> None:
        """Stops every worker and waits until no process is left. May be called again with less grace."""
        self._end_turnover()
        await self._roster.stop(grace)
        await asyncio.gather(*(worker.origin.close() for worker in self._roster))

    async def _turn_over(self, model: ModelConfig) -> None:
        """From the workers there are to those of the model's settings, one at a time and the new one first."""
        for index in range(model.replicas):
            old = self._serving.get(index)
            if old is not None and old.model.loads_like(model):
                continue
            new = self._new(model, index)
            self._roster.start(new, serving=False)
            try:
                while not new.settled:
                    await self._changes.wait()
            except asyncio.CancelledError:
                self._roster.retire(new)
                raise
            if new.state is not ModelState.READY:
                log.error("%s could not be replaced: %s; the old worker stays", new.name, new.reason)
                self._roster.retire(new)
                return
            self._roster.serve(new)
            self._serving[index] = new
            if old is not None:
                self._roster.retire(old)
        for index in [index for index in self._serving if index >= model.replicas]:
            self._roster.retire(self._serving.pop(index))

    def _end_turnover(self) -> None:
        if self._turnover is not None:
            self._turnover.cancel()
            self._turnover = None

    def _new(self, model: ModelConfig, index: int) -> WorkerProcess:
        site, origin = self._site(), self._origin(model)
        return WorkerProcess(model, index, self._config, site, origin, self._tell, self._output, self._tally)

    def _origin(self, model: ModelConfig) -> Origin:
        """Workers that could take each other's place come from the same."""
        alike = (worker.origin for worker in self._roster if worker.model.loads_like(model))
        return next(alike, None) or origin_of(model, self._config)

    async def _left(self, worker: WorkerProcess) -> None:
        """The last one of an origin closes it."""
        if all(worker.origin is not other.origin for other in self._roster):
            await worker.origin.close()
        self._tell()

    def _tell(self) -> None:
        self._changes.tell()
        self._changed()
