"""One model: its replicas while it is loaded, its users, and what is wanted of it.

Made by fleet.Fleet, which calls load() and unload() as lifecycle.plan decides; dispatch.py comes here through it.
Invariant: between `using` and its end the model is never unloaded for idleness, and for want of room only after its
turn; calls that are open then come to their end.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from protos import inference_pb2 as pb
from router.config import ModelConfig, SupervisionConfig
from router.errors import InvalidRequest, ModelFailed, ModelLoading, RouterError, Unavailable
from router.fleet.changes import Changes
from router.fleet.crew import Crew
from router.fleet.demand import Demand
from router.fleet.eviction import Cause
from router.fleet.lifecycle import ModelState, ModelStatus, ReplicaStatus, Standing, most_alive
from router.fleet.need import MemoryNeed
from router.fleet.tally import LoadEnd, Tally
from router.remotes.remote import RemoteWorker
from router.remotes.remoteset import RemoteWorkers, World
from router.rpc.replica import Replica
from router.supervision.origin import are_forked
from router.supervision.supervisor import Site
from router.supervision.tail import Tail
from router.supervision.workers import Workers

log = logging.getLogger("corral.fleet")

FOREVER = float("inf")  # for a request that waits
LOAD_ENDS = {ModelState.READY: LoadEnd.READY, ModelState.FAILED: LoadEnd.FAILED}


class ReplicaSet:
    """A model's replicas."""

    def __init__(
        self,
        model: ModelConfig,
        config: SupervisionConfig,
        site: Callable[[], Site],
        changed: Callable[[], None],
        room_is_wanted: Callable[[], bool],
        clock: Callable[[], float],
        world: World,
    ) -> None:
        """`site` gives each new process a place of its own; `changed` is called after every change.

        `room_is_wanted`: whether any model waits to be loaded.
        """
        self.model = model
        self.removed = False  # from the configuration: it goes when its last user has gone
        self._config = config
        self._told = changed
        self._room_is_wanted = room_is_wanted
        self._clock = clock
        self._changes = Changes()
        self.output = Tail()  # the last lines of all its workers
        self.tally = Tally()  # of all its workers, those that have gone with them
        self._workers = Workers(config, site, self._worker_changed, self.output, self.tally)
        self._remote = RemoteWorkers(config, world, self._reference, self._worker_changed, self.tally)
        self._crew = Crew(self._workers, self._remote)
        self.demand = Demand(model, clock())
        self._serves_since = clock()
        self._was_ready = False  # since it was loaded
        self._memory = MemoryNeed(forked=are_forked(config))
        self._description: pb.DescribeReply | None = None  # by its workers, once one has been ready
        self._num_parallel = 0  # of its ready replicas together
        self._refusal = ""
        self._at_start = False  # whether it loads because the gateway does
        self._stopped = False

    # ---- what others see ----

    @property
    def state(self) -> ModelState:
        return ModelState.STOPPED if self._stopped else self._crew.state or self._process_state

    @property
    def _process_state(self) -> ModelState:
        """Of what this gateway loads and unloads."""
        if self._stopped:
            return ModelState.STOPPED
        if self._workers:
            return most_alive({worker.state for worker in self._workers})
        if self._workers.beside:
            return ModelState.DRAINING
        return ModelState.FAILED if self._refusal else ModelState.UNLOADED

    def status(self) -> ModelStatus:
        workers = list(self._crew)
        told = [worker for worker in workers if worker.state is self.state] or workers
        return ModelStatus(
            name=self.model.name,
            aliases=self.model.names,
            path=self.model.path,
            state=self.state,
            reason=self._refusal
            or next((worker.reason for worker in told if worker.reason), "")
            or self._remote.reason,
            progress=next((worker.progress for worker in told if worker.progress), None),
            replicas=self.replicas(),
            last_lines=tuple(told[0].last_lines) if told else (),
            description=self._description,
            arguments=self.model.worker_arguments,
            num_crashes=self.tally.num_crashes,
            source=self.model.source,
            exit_code=next((worker.exit_code for worker in told if worker.exit_code is not None), None),
        )

    def replicas(self) -> tuple[ReplicaStatus, ...]:
        """Those of the configuration, then those that warm up or drain."""
        return self._crew.statuses()

    def open(self) -> tuple[Replica, ...]:
        """Those that can be called now, perhaps none."""
        return self._crew.open()

    def living(self) -> tuple[Replica, ...]:
        """Those that can be called, and those that drain."""
        return self._crew.living()

    @property
    def num_parallel(self) -> int:
        """How many requests its ready replicas compute at once; 0 until one has told."""
        return self._num_parallel or (self._description.num_parallel if self._description is not None else 0)

    @property
    def waits(self) -> bool:
        """Whether it is to be loaded and is not yet, perhaps for want of room."""
        return self.demand.is_there and self._process_state is ModelState.UNLOADED

    @property
    def settled(self) -> bool:
        """Whether it does not load for the start, or no longer: every worker was ready once, or never will be."""
        return not self._at_start and (not self._remote or self._remote.settled)

    @property
    def tried(self) -> bool:
        """Whether it is settled, or what holds it up are crashes."""
        return self.settled or all(worker.tried for worker in self._workers)

    @property
    def available(self) -> bool:
        """Whether a request could have it, perhaps after it is loaded."""
        if self._stopped or self._refusal:
            return False
        if self.open() or any(worker.starting for worker in self._crew):
            return True
        return self.demand.autoload and self.model.path is not None and not self._workers

    def standing(self) -> Standing:
        return Standing(
            name=self.model.name,
            state=self._process_state,
            num_bytes=self._memory.estimate(self.model),
            num_users=self.demand.num_users,
            wanted_since=self.demand.since if self.demand.is_there else None,
            yields=self.demand.yields,
            last_used=self.demand.last_used,
            serves_since=self._serves_since,
            keep_alive=self.demand.keep_alive,
            pin=self.model.pin,
            leaves=self.demand.leaves or (self.removed and not self.demand.num_users),
        )

    def standing_with(self, model: ModelConfig) -> Standing:
        """As standing, if its workers were those of these settings."""
        changes = model.replicas != self.model.replicas or not model.loads_like(self.model)
        return replace(self.standing(), num_bytes=self._memory.foretell(model)) if changes else self.standing()

    # ---- using it ----

    @contextmanager
    def using(self, keep_alive: float | None = None) -> Iterator[None]:
        """For the length of a request: the model is loaded if it must be, and stays.

        `keep_alive` says how many seconds it stays loaded afterwards; None: as the configuration says.
        """
        if self.demand.enter():
            self._want()
        try:
            yield
        finally:
            self.demand.leave(self._clock(), keep_alive)
            self._leave_if_removed()
            if not self.demand.num_users and self._is_idleness_news:
                self._tell()

    @property
    def _is_idleness_news(self) -> bool:
        """Whether anything follows from its having no users: else most requests would end with a plan of the fleet."""
        return self.demand.is_idleness_news or self.removed or self._room_is_wanted()

    async def ready(self, left: Collection[Replica] = ()) -> tuple[Replica, ...]:
        """The replicas that can be called, at least one, without those the caller has left.

        Waits for a model that is being loaded for a request, as long as that takes, and `recovery_wait` for one that
        was ready and has crashed; every other state is told at once, by ModelLoading, Unavailable, ModelFailed, or
        InvalidRequest where requests load nothing.
        """
        began = self._clock()
        while not (found := tuple(replica for replica in self.open() if replica not in left)):
            patience = self._patience(began)
            if patience <= 0:
                raise self._why_not()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changes.wait(), None if patience == FOREVER else patience)
        return found

    def _patience(self, began: float) -> float:
        """For how many more seconds a request that came at `began` waits."""
        if self._stopped or self._refusal:
            return 0.0
        if any(worker.recovering for worker in self._crew):
            return began + self._config.recovery_wait - self._clock()
        if self._crew:
            return FOREVER if self.settled and any(worker.starting for worker in self._crew) else 0.0
        return FOREVER if self.demand.is_there and not self._at_start else 0.0

    def _why_not(self) -> RouterError:
        if self._stopped:
            return Unavailable("the server is shutting down")
        if self._refusal:
            return ModelFailed(self.model.name, self._refusal)
        best = next((worker for worker in self._crew if worker.state is self.state), None)
        if best is not None:
            return best.refusal()
        if self._remote:
            return (
                ModelLoading() if not self.settled else Unavailable(f"no worker of model '{self.model.name}' is known")
            )
        if self._at_start and self.demand.is_there:
            return ModelLoading()
        return InvalidRequest(f"model '{self.model.name}' is not loaded (POST /models/load loads it)")

    # ---- what is wanted of it ----

    def begin(self, *, at_start: bool) -> None:
        """It is new: it is loaded if it is to be loaded without being asked for."""
        self._remote.follow(self.model)
        if self.model.path is not None and self.model.load_on_start:
            self.ask_to_load(at_start=at_start)

    def ask_to_load(self, *, at_start: bool = False) -> None:
        """From now on it is to be loaded; at the start only if nothing has to go for it. A failed one tries again."""
        self.demand.ask(yields=at_start)
        self._at_start = at_start
        self._forget_failure()
        self._want()

    def ask_to_unload(self) -> None:
        """It goes as soon as the requests it computes have ended; those that wait make it come back."""
        self.demand.ask_to_go()
        self._tell()

    def drop(self) -> None:
        """It is not to be loaded after all, unless somebody asks again."""
        self._at_start = False
        self.demand.give_up()
        log.warning("model %s is not loaded at the start: there is no room beside the others", self.model.name)
        self._tell()

    def refuse(self, reason: str) -> None:
        """It can never be loaded."""
        log.error("model %s failed: %s", self.model.name, reason)
        self._refusal, self._at_start = reason, False
        self.demand.give_up()
        self._tell()

    def _want(self) -> None:
        self.demand.note(self._clock())
        if self.demand.is_there and self._process_state is not ModelState.READY:  # else it is loaded, and stays
            self._tell()

    def _forget_failure(self) -> None:
        self._refusal = ""
        if self._process_state is ModelState.FAILED:
            self._workers.retire()

    def remove(self) -> None:
        """It is not configured any more: it goes when its last user has gone."""
        self.removed = True
        self._leave_if_removed()

    def _leave_if_removed(self) -> None:
        if self.removed and not self.demand.num_users:
            self._remote.retire()

    # ---- its workers ----

    def load(self) -> None:
        """Starts a worker for every replica."""
        self.demand.loaded()
        self._was_ready = False
        self.tally.load_begins()
        self._workers.start(self.model)

    def unload(self, cause: Cause) -> None:
        """Lets open calls end and stops every worker; one that is still loading stops at once."""
        log.info("model %s is unloaded (%s)", self.model.name, cause)
        self.tally.unloaded(cause)
        self.demand.unloaded()
        self._at_start = False
        self._forget_failure()
        self._workers.retire()
        self._want()

    def reconfigure(self, model: ModelConfig) -> None:
        """Other settings: those that a process reads once bring a new one for each old one; others are followed."""
        self._remote.follow(model)
        had_path = self.model.path is not None
        if not self._workers and not model.loads_like(self.model):
            self._memory.forget()
            self._description = None
        self.model = model
        self.demand.follow(model)
        if model.path is None:
            self._refusal, self._at_start = "", False
            self.demand.give_up()
            if self._workers:
                self.tally.unloaded(Cause.ASKED)
            self._workers.retire()
        elif self._process_state is ModelState.FAILED or (model.load_on_start and not had_path):
            self.ask_to_load()
        elif self._workers:
            self.demand.last_used = self._clock()  # what was set anew is not the first to go for it
            self._workers.replace(model)
        self._tell()

    async def stop(self, grace: float) -> None:
        """Stops every worker and waits until no process is left. May be called again with less grace."""
        self._stopped, self._at_start = True, False
        self._tell()
        await asyncio.gather(self._workers.stop(grace), self._remote.stop())

    def _worker_changed(self) -> None:
        """Loading and coming back count as use."""
        self.demand.last_used = self._clock()
        if (end := LOAD_ENDS.get(self._process_state)) is not None:
            self.tally.load_ends(end)
        if self.state is ModelState.READY and not self._was_ready:
            self._serves_since, self._was_ready = self._clock(), True
        if all(worker.settled for worker in self._workers):
            self._at_start = False
        self._crew.check()
        self._crew.number_places()
        self._num_parallel = self._crew.num_parallel()
        self._description = next(iter(self._crew.descriptions()), self._description)
        self._memory.measure(self.model, [worker.num_bytes for worker in self._workers])
        self._tell()

    def _reference(self, asking: RemoteWorker) -> pb.DescribeReply | None:
        return self._crew.reference(asking)

    def _tell(self) -> None:
        self._changes.tell()
        self._told()
