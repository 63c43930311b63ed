"""One model: its replicas while it is loaded, its users, and what is wanted of it.

Made by fleet.Fleet, which calls load() and unload() as lifecycle.plan decides; dispatch.py comes here through it. A
model's workers are replaced one by one: the new one is warm before the old one drains.
Invariant: between `using` and its end the model is never unloaded for want of room or for idleness.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from protos import inference_pb2 as pb
from router.config import ModelConfig, SupervisionConfig
from router.errors import InvalidRequest, ModelFailed, ModelLoading, RouterError, Unavailable
from router.lifecycle import ModelState, ModelStatus, ReplicaStatus, Standing, most_alive
from router.modelfile import size_on_disk
from router.replica import Replica
from router.supervisor import Site, WorkerProcess

log = logging.getLogger("corral.fleet")

WORKER_BYTES = 256 << 20  # of a worker beside its weights, as long as none has told
FOREVER = float("inf")


class Signal:
    """Something that changes, and those who wait for it to."""

    def __init__(self) -> None:
        self.count = 0  # of its changes
        self._event = asyncio.Event()

    def tell(self) -> None:
        self.count += 1
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, seen: int | None = None) -> None:
        """Returns at the next change, or at once if it has changed since its count was `seen`."""
        if seen is None or seen == self.count:
            await self._event.wait()


class ReplicaSet:
    """A model's replicas."""

    def __init__(
        self,
        model: ModelConfig,
        config: SupervisionConfig,
        site: Callable[[], Site],
        changed: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """`site` gives each new worker a place of its own; `changed` is called after every change."""
        self.model = model
        self.autoload = True  # whether users make it load
        self.removed = False  # from the configuration: it goes when its last user has gone
        self._config = config
        self._site = site
        self._told = changed
        self._clock = clock
        self._signal = Signal()
        self._workers: dict[int, WorkerProcess] = {}  # by index; what requests may go to
        self._beside: set[WorkerProcess] = set()  # that warm up, or drain
        self._tasks: dict[WorkerProcess, asyncio.Task[None]] = {}
        self._turnover: asyncio.Task[None] | None = None
        self._chores: set[asyncio.Task[None]] = set()
        self._num_users = 0
        self._asked = False  # to be loaded, by name
        self._yields = False
        self._leaves = False
        self._wanted_since: float | None = None
        self._last_used = clock()
        self._keep_alive = FOREVER if model.ttl is None else model.ttl
        self._num_bytes: int | None = None  # once a worker has told
        self._description: pb.DescribeReply | None = None  # likewise
        self._refusal = ""
        self._at_start = False  # whether it loads because the gateway does
        self._stopped = False

    # ---- what others see ----

    @property
    def state(self) -> ModelState:
        if self._stopped:
            return ModelState.STOPPED
        if self._workers:
            return most_alive({worker.state for worker in self._workers.values()})
        if self._beside:
            return ModelState.DRAINING
        return ModelState.FAILED if self._refusal else ModelState.UNLOADED

    def status(self) -> ModelStatus:
        workers = list(self._workers.values())
        told = [worker for worker in workers if worker.state is self.state] or workers
        return ModelStatus(
            name=self.model.name,
            aliases=self.model.names,
            path=self.model.path,
            state=self.state,
            reason=self._refusal or next((worker.reason for worker in told if worker.reason), ""),
            progress=next((worker.progress for worker in told if worker.progress), None),
            replicas=self.replicas(),
            last_lines=tuple(told[0].last_lines) if told else (),
            description=self._description,
            arguments=self.model.worker_arguments,
        )

    def replicas(self) -> tuple[ReplicaStatus, ...]:
        """Those of the configuration, then those that warm up or drain."""
        beside = sorted(self._beside, key=lambda worker: worker.index)
        return tuple(worker.status() for worker in (*self._in_order(), *beside))

    def open(self) -> tuple[Replica, ...]:
        """Those that can be called now, perhaps none."""
        ready = (worker for worker in self._in_order() if worker.state is ModelState.READY)
        return tuple(worker.replica for worker in ready if worker.replica is not None)

    @property
    def num_parallel(self) -> int:
        """How many requests its ready replicas compute at once; 0 until one has told."""
        each = self._description.num_parallel if self._description is not None else 0
        return each * max(len(self.open()), 1)

    @property
    def settled(self) -> bool:
        """Whether it does not load for the start, or no longer: every worker was ready once, or never will be."""
        return not self._at_start

    @property
    def available(self) -> bool:
        """Whether a request could have it, perhaps after it is loaded."""
        if self._stopped or self._refusal:
            return False
        if self._workers:
            return bool(self.open()) or any(worker.starting for worker in self._workers.values())
        return self.autoload

    def standing(self) -> Standing:
        return Standing(
            name=self.model.name,
            state=self.state,
            num_bytes=self._estimate(),
            num_users=self._num_users,
            wanted_since=self._wanted_since if self._is_wanted else None,
            yields=self._yields and not self._num_users,
            last_used=self._last_used,
            keep_alive=FOREVER if self.model.pin else self._keep_alive,
            pin=self.model.pin,
            leaves=self._leaves or (self.removed and not self._num_users),
        )

    # ---- using it ----

    @asynccontextmanager
    async def using(self, keep_alive: float | None = None) -> AsyncIterator[None]:
        """For the length of a request: the model is loaded if it must be, and stays.

        `keep_alive` says how many seconds it stays loaded afterwards; None: as the configuration says.
        """
        self._num_users += 1
        self._want()
        try:
            yield
        finally:
            self._num_users -= 1
            self._last_used = self._clock()
            if not self._is_wanted:
                self._wanted_since = None
            configured = FOREVER if self.model.ttl is None else self.model.ttl
            self._keep_alive = configured if keep_alive is None else keep_alive
            self._tell()

    async def ready(self, lost: Replica | None = None) -> tuple[Replica, ...]:
        """The replicas that can be called, at least one, without the one the caller has just lost.

        Waits for a model that is being loaded for a request, as long as that takes, and `recovery_wait` for one that
        was ready and has crashed; every other state is told at once, by ModelLoading, Unavailable, ModelFailed, or
        InvalidRequest where requests load nothing.
        """
        began = self._clock()
        while not (found := tuple(replica for replica in self.open() if replica is not lost)):
            patience = self._patience(began)
            if patience <= 0:
                raise self._why_not()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._signal.wait(), None if patience == FOREVER else patience)
        return found

    def _patience(self, began: float) -> float:
        """For how many more seconds a request that came at `began` waits."""
        workers = self._workers.values()
        if self._stopped or self._refusal:
            return 0.0
        if any(worker.recovering for worker in workers):
            return began + self._config.recovery_wait - self._clock()
        if workers:
            return FOREVER if not self._at_start and any(worker.starting for worker in workers) else 0.0
        return FOREVER if self._is_wanted and not self._at_start else 0.0

    def _why_not(self) -> RouterError:
        if self._stopped:
            return Unavailable("the server is shutting down")
        if self._refusal:
            return ModelFailed(self.model.name, self._refusal)
        if self._workers:
            best = next(worker for worker in self._in_order() if worker.state is self.state)
            return best.refusal()
        if self._at_start and self._is_wanted:
            return ModelLoading()
        return InvalidRequest(f"model '{self.model.name}' is not loaded (POST /models/load loads it)")

    # ---- what is wanted of it ----

    def ask_to_load(self, *, at_start: bool = False) -> None:
        """From now on it is to be loaded; at the start only if nothing has to go for it. A failed one tries again."""
        self._asked, self._yields, self._at_start = True, at_start, at_start
        self._forget_failure()
        self._want()

    def ask_to_unload(self) -> None:
        """It goes as soon as the requests it computes have ended; those that wait make it come back."""
        self._asked = False
        self._leaves = True
        self._tell()

    def drop(self) -> None:
        """It is not to be loaded after all, unless somebody asks again."""
        self._asked = self._at_start = self._yields = False
        self._wanted_since = None
        log.warning("model %s is not loaded at the start: there is no room beside the others", self.model.name)
        self._tell()

    def refuse(self, reason: str) -> None:
        """It can never be loaded."""
        log.error("model %s failed: %s", self.model.name, reason)
        self._refusal = reason
        self._asked = self._at_start = False
        self._wanted_since = None
        self._tell()

    @property
    def _is_wanted(self) -> bool:
        return self._asked or (self.autoload and self._num_users > 0)

    def _want(self) -> None:
        if self._wanted_since is None and self._is_wanted:
            self._wanted_since = self._clock()
        self._tell()

    def _forget_failure(self) -> None:
        self._refusal = ""
        if self.state is ModelState.FAILED:
            self._retire_all()

    # ---- its workers ----

    def load(self) -> None:
        """Starts a worker for every replica."""
        self._asked, self._wanted_since, self._leaves = False, None, False
        for index in range(self.model.replicas):
            self._workers[index] = self._start(self.model, index)
        self._tell()

    def unload(self) -> None:
        """Lets open calls end and stops every worker; one that is still loading stops at once."""
        log.info("model %s is unloaded", self.model.name)
        self._leaves, self._at_start, self._wanted_since = False, False, None
        self._forget_failure()
        self._retire_all()
        self._want()

    def reconfigure(self, model: ModelConfig) -> None:
        """Other settings: those that a worker reads once bring a new worker for each old one."""
        self.model = model
        self._keep_alive = FOREVER if model.ttl is None else model.ttl
        if self.state is ModelState.FAILED:
            self.ask_to_load()
        elif self._workers:
            self._end_turnover()
            self._turnover = asyncio.create_task(self._turn_over(model))
        self._tell()

    async def stop(self, grace: float) -> None:
        """Stops every worker and waits until no process is left. May be called again with less grace."""
        self._stopped, self._at_start = True, False
        self._end_turnover()
        for worker in self._tasks:
            worker.stop(grace)
        self._tell()
        await asyncio.gather(*self._tasks.values(), *self._chores, return_exceptions=True)

    async def _turn_over(self, model: ModelConfig) -> None:
        """From the workers there are to those of the model's settings, one at a time and the new one first."""
        for index in range(model.replicas):
            old = self._workers.get(index)
            if old is not None and old.model.loads_like(model):
                continue
            new = self._start(model, index)
            self._beside.add(new)
            try:
                while not new.settled:
                    await self._signal.wait()
            except asyncio.CancelledError:
                self._retire(new)
                raise
            if new.state is not ModelState.READY:
                log.error("%s could not be replaced: %s; the old worker stays", new.name, new.reason)
                self._retire(new)
                return
            self._beside.discard(new)
            self._workers[index] = new
            if old is not None:
                self._retire(old)
        for index in [index for index in self._workers if index >= model.replicas]:
            self._retire(self._workers.pop(index))

    def _end_turnover(self) -> None:
        if self._turnover is not None:
            self._turnover.cancel()
            self._turnover = None

    def _start(self, model: ModelConfig, index: int) -> WorkerProcess:
        worker = WorkerProcess(model, index, self._config, self._site(), self._worker_changed)
        self._tasks[worker] = asyncio.create_task(worker.run(), name=f"worker {worker.name}")
        return worker

    def _retire_all(self) -> None:
        self._end_turnover()
        workers = [*self._workers.values()]
        self._workers.clear()
        for worker in workers:
            self._retire(worker)

    def _retire(self, worker: WorkerProcess) -> None:
        """Takes a worker out of service; a task of its own sees it off."""
        self._beside.add(worker)
        task = asyncio.create_task(self._see_off(worker))
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _see_off(self, worker: WorkerProcess) -> None:
        try:
            await worker.retire()
            await self._tasks[worker]
        finally:
            self._beside.discard(worker)
            self._tasks.pop(worker, None)
            self._tell()

    def _worker_changed(self) -> None:
        """Loading and coming back count as use."""
        self._last_used = self._clock()
        if all(worker.settled for worker in self._workers.values()):
            self._at_start = False
        known = [worker.description for worker in self._in_order() if worker.description is not None]
        self._description = known[0] if known else self._description
        measured = self._measured()
        self._num_bytes = self._num_bytes if measured is None else measured
        self._tell()

    def _in_order(self) -> list[WorkerProcess]:
        return [self._workers[index] for index in sorted(self._workers)]

    # ---- its memory ----

    def _estimate(self) -> int:
        """Bytes that it takes, or would: as it was measured in this run, else from the file's size."""
        if self._num_bytes is not None:
            return self._num_bytes
        return size_on_disk(self.model.path) + self.model.replicas * WORKER_BYTES

    def _measured(self) -> int | None:
        """Of all workers together, which share the weights; None while one has not told."""
        told = [(worker.num_bytes, worker.description) for worker in self._workers.values()]
        if not told or any(num_bytes is None for num_bytes, _ in told):
            return None
        weights = max(description.size_bytes for _, description in told if description is not None)
        return sum(max((num_bytes or 0) - weights, 0) for num_bytes, _ in told) + weights

    def _tell(self) -> None:
        self._signal.tell()
        self._told()
