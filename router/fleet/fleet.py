"""All models of a gateway: which of them are loaded, and the replicas a request may go to.

Made by serve.py, or by app.py for tests; asked by dispatch.py and by what shows the models. One task carries out what
lifecycle.plan says after every change. Invariant: only that task loads and unloads; everybody else says what is wanted.
"""

import asyncio
import itertools
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Self

from router.config import CoreLease, ModelConfig, ResidencyConfig, SupervisionConfig
from router.errors import CommandError, ModelLoading, ModelNotFound, Unavailable
from router.fleet.changes import Changes
from router.fleet.lifecycle import ModelState, ModelStatus, ReplicaStatus, growth_refusal, plan
from router.fleet.replicaset import ReplicaSet
from router.fleet.tally import Tally
from router.remotes.remoteset import World
from router.remotes.resolver import system_lookup
from router.rpc.replica import Replica
from router.supervision.runfolder import RunFolder
from router.supervision.supervisor import Site
from router.supervision.tail import Tail

_GONE = (ModelState.UNLOADED, ModelState.FAILED, ModelState.STOPPED)


class Fleet:
    """Every model's replicas. An async context: entering starts what loads at the start, leaving stops everything."""

    def __init__(
        self,
        models: Sequence[ModelConfig],
        supervision: SupervisionConfig,
        residency: ResidencyConfig = ResidencyConfig(),  # noqa: B008 (frozen)
        world: World | None = None,
    ) -> None:
        """`world`: how names are looked up, and the environment; this host's if left out."""
        self._configured = tuple(models)
        self._supervision = supervision
        self._residency = residency
        self._world = world or World(system_lookup, os.environ)
        self._sets: dict[str, ReplicaSet] = {}
        self._changes = Changes()
        self._planner: asyncio.Task[None] | None = None
        self._folder: RunFolder | None = None
        self._socket_numbers = itertools.count()
        self.draining = False  # whether the gateway is about to stop

    async def __aenter__(self) -> Self:
        self._folder = RunFolder(os.environ)
        self.apply(self._configured, self._residency)
        self._planner = asyncio.create_task(self._carry_out(), name="fleet")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(self._supervision.stop_grace)

    async def stop(self, grace: float) -> None:
        """Stops every worker and waits until no process is left. Idempotent; a later call may shorten the grace."""
        if self._planner is not None:
            self._planner.cancel()
        await asyncio.gather(*(each.stop(grace) for each in self._sets.values()))
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    # ---- for requests ----

    def using(self, model: str, keep_alive: float | None = None) -> AbstractContextManager[None]:
        """See ReplicaSet.using. Raises ModelNotFound for a model that a reload has taken away and that has gone."""
        found = self._set(model)
        if found.removed and found.state is not ModelState.READY:
            raise ModelNotFound(model, ())
        return found.using(keep_alive)

    async def ready(self, model: str, left: Collection[Replica] = ()) -> Sequence[Replica]:
        """See ReplicaSet.ready. Whoever calls one of them without waiting in between finds it in service."""
        return await self._set(model).ready(left)

    def open(self, model: str) -> Sequence[Replica]:
        """The model's replicas that can be called now, perhaps none; loads nothing."""
        return self._set(model).open()

    def living(self, model: str) -> Sequence[Replica]:
        """The model's replicas that can be called, and those that drain."""
        return self._set(model).living()

    def replicas(self, model: str) -> Sequence[ReplicaStatus]:
        """All the model's replicas, ready or not; none while it is not loaded."""
        return self._set(model).replicas()

    def num_parallel(self, model: str) -> int:
        """How many requests the model computes at once; 0 until it has been ready."""
        return self._set(model).num_parallel

    # ---- for operators ----

    def output(self, model: str) -> Tail:
        """The last lines of the model's workers."""
        return self._set(model).output

    def models(self) -> list[ModelStatus]:
        """In the order of configuration."""
        return [each.status() for each in self._sets.values() if not each.removed]

    def tallies(self) -> Mapping[str, Tally]:
        """What the workers of each model have counted, in the order of configuration."""
        return {name: each.tally for name, each in self._sets.items() if not each.removed}

    def tally(self, model: str) -> Tally:
        """What the workers of one model have counted."""
        return self._set(model).tally

    def status(self, model: str) -> ModelStatus:
        return self._set(model).status()

    def load(self, model: str) -> None:
        """Loads it as soon as there is room, whether a request needs it or not."""
        self._set(model).ask_to_load()

    def unload(self, model: str) -> None:
        """Unloads it when the requests it computes have ended."""
        self._set(model).ask_to_unload()

    def apply(self, models: Sequence[ModelConfig], residency: ResidencyConfig) -> None:
        """Makes these the models: new ones start, changed ones are replaced, those that are gone drain."""
        self._residency = residency
        before = self._sets
        self._sets = {model.name: before.get(model.name) or self._new(model) for model in models}
        for model in models:
            known = self._sets[model.name]
            was_removed, known.removed, known.demand.autoload = known.removed, False, residency.autoload
            if model.name not in before:
                known.begin(at_start=self._planner is None)
            elif was_removed or known.model != model or known.state is ModelState.FAILED:
                known.reconfigure(model)
        for name, known in before.items():
            if name not in self._sets:
                known.remove()
                self._sets[name] = known
        self._changes.tell()

    def check_room(self, models: Sequence[ModelConfig], residency: ResidencyConfig) -> None:
        """Raises CommandError if what is loaded would not fit as configured now, even without those that are idle."""
        known = [(self._sets[model.name], model) for model in models if model.name in self._sets]
        before = {model.name: each.standing().num_bytes for each, model in known}
        why = growth_refusal(before, [each.standing_with(model) for each, model in known], residency)
        if why is not None:
            raise CommandError(why)

    @property
    def num_changes(self) -> int:
        """How often anything about any model has changed."""
        return self._changes.count

    async def change(self, seen: int | None = None) -> None:
        """Returns at the next change, or at once if there was one since `num_changes` was `seen`."""
        await self._changes.wait(seen)

    # ---- for probes ----

    @property
    def settled(self) -> bool:
        """Whether every model that loads at the start has been ready once, or never will be.

        One that crashes and is started again is not waited for once another one serves.
        """
        models = self._sets.values()
        return all(each.settled for each in models) or (
            all(each.tried for each in models) and any(each.open() for each in models)
        )

    def begin_drain(self) -> None:
        """From now on check_ready refuses; requests are still served."""
        self.draining = True
        for each in self._sets.values():
            each.output.end()
        self._changes.tell()

    def check_health(self) -> None:
        """Raises ModelLoading until the start is over, then Unavailable while no model can be had."""
        if not self.settled:
            raise ModelLoading
        if not any(each.available for each in self._sets.values()):
            raise Unavailable("no model is ready")

    def check_ready(self) -> None:
        """As check_health; also Unavailable when draining."""
        if self.draining:
            raise Unavailable("the server is shutting down")
        self.check_health()

    # ---- the plan ----

    async def _carry_out(self) -> None:
        """Plans after every change, and when something becomes due."""
        loop = asyncio.get_running_loop()
        while True:
            due = self._act(loop.time())
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._changes.wait()

    def _act(self, now: float) -> float | None:
        """One plan, carried out; when the next one is due at the latest."""
        self._sets = {name: each for name, each in self._sets.items() if not _is_over(each)}
        decided = plan([each.standing() for each in self._sets.values()], self._residency, now)
        for name, cause in decided.unload.items():
            self._sets[name].unload(cause)
        for name in decided.load:
            self._sets[name].load()
        for name in decided.drop:
            self._sets[name].drop()
        for name, reason in decided.refuse.items():
            self._sets[name].refuse(reason)
        return decided.due

    def _set(self, model: str) -> ReplicaSet:
        found = self._sets.get(model)
        if found is None:
            raise ModelNotFound(model, ())
        return found

    def _new(self, model: ModelConfig) -> ReplicaSet:
        clock = asyncio.get_running_loop().time
        return ReplicaSet(
            model, self._supervision, self._site, self._changes.tell, self._room_is_wanted, clock, self._world
        )

    def _room_is_wanted(self) -> bool:
        return any(each.waits for each in self._sets.values())

    def _site(self) -> Site:
        assert self._folder is not None, "workers start only between entering and leaving"
        return Site(self._folder.socket(next(self._socket_numbers)), self._lease(self._folder))

    def _lease(self, folder: RunFolder) -> str:
        """What a worker calls it."""
        names = {CoreLease.AUTO: str(folder.core_lease), CoreLease.ON: "host", CoreLease.OFF: "off"}
        return names[self._supervision.core_lease]


def _is_over(model: ReplicaSet) -> bool:
    """Whether a model that was taken away has ended."""
    if not model.removed:
        return False
    standing = model.standing()
    return not standing.num_users and standing.state in _GONE and not model.replicas()
