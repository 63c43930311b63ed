"""The workers of one model on other hosts: those of its configuration, and those that a name's addresses stand for.

Owned by replicaset.ReplicaSet. Names are looked up again and again: an address that is new is connected to, one that
has gone is left once its requests have ended. Invariant: one RemoteWorker for each address in service.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from protos import inference_pb2 as pb
from router.config import ModelConfig, SupervisionConfig
from router.fleet.lifecycle import ModelState
from router.fleet.tally import Tally
from router.remotes.addresses import Target, joined, parse_target
from router.remotes.remote import RemoteWorker, Surroundings
from router.remotes.resolver import Lookup, Resolution
from router.supervision.roster import Roster

log = logging.getLogger("corral.remote")


@dataclass(frozen=True, slots=True)
class World:
    """What lies outside of this process."""

    lookup: Lookup
    environment: Mapping[str, str]  # with the workers' token, if it stands there


class RemoteWorkers:
    """Iterating gives those in service, by index."""

    def __init__(
        self,
        config: SupervisionConfig,
        world: World,
        reference: Callable[[RemoteWorker], pb.DescribeReply | None],
        changed: Callable[[], None],
        tally: Tally,
    ) -> None:
        """`reference` tells what another worker has said of the model; `changed` is called after every change."""
        self._config = config
        self._world = world
        self._reference = reference
        self._changed = changed
        self._tally = tally
        self._model: ModelConfig | None = None
        self._targets: dict[Target, asyncio.Task[None] | None] = {}  # who looks it up, if it is a name
        self._found: dict[Target, tuple[str, ...]] = {}  # its addresses, once they are known
        self._resolutions: dict[Target, Resolution] = {}
        self._complaints: dict[Target, str] = {}  # why it was not found, the last time
        self._serving: dict[str, RemoteWorker] = {}
        self._roster = Roster[RemoteWorker](self._left)
        self._has_settled = False

    def __iter__(self) -> Iterator[RemoteWorker]:
        return iter(sorted(self._serving.values(), key=lambda worker: worker.index))

    def __bool__(self) -> bool:
        """Whether there are to be any, found or not."""
        return bool(self._targets)

    @property
    def beside(self) -> list[RemoteWorker]:
        """Those that drain, by index."""
        return self._roster.beside

    @property
    def states(self) -> set[ModelState]:
        """Those of all in service; where none is known, what there is to be said of the names."""
        if self._serving or not self._targets:
            return {worker.state for worker in self._serving.values()}
        return {ModelState.UNREACHABLE if self._complaints else ModelState.CONNECTING}

    @property
    def reason(self) -> str:
        """Why no address is known, if none is."""
        return "" if self._serving else next(iter(self._complaints.values()), "")

    @property
    def settled(self) -> bool:
        """Whether one has been ready, or all have been tried."""
        workers = self._serving.values()
        found = all(target in self._found or target in self._complaints for target in self._targets)
        ready = any(worker.state is ModelState.READY for worker in workers)
        self._has_settled |= ready or (found and all(worker.settled for worker in workers))
        return self._has_settled

    def follow(self, model: ModelConfig) -> None:
        """From now on these are the workers; connections there are stay, whatever the new credentials."""
        self._model = model
        for worker in self._serving.values():
            worker.model = model
        wanted = [parse_target(text) for text in model.workers]
        for target in [each for each in self._targets if each not in wanted]:
            self._forget(target)
        for target in wanted:
            if target not in self._targets:
                self._targets[target] = self._look_up(target)
        self._settle()

    def retire(self) -> None:
        """Leaves all, each once its open calls have ended."""
        for target in [*self._targets]:
            self._forget(target)
        self._settle()

    async def stop(self) -> None:
        """Leaves all at once."""
        tasks = [task for task in self._targets.values() if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self._roster.stop(0), return_exceptions=True)

    # ---- names ----

    def _look_up(self, target: Target) -> asyncio.Task[None] | None:
        if not target.is_name:
            self._found[target] = (target.text,)
            return None
        resolution = Resolution(target.host, self._world.lookup, self._config.resolve_interval)
        self._resolutions[target] = resolution
        return asyncio.create_task(self._follow_name(target, resolution), name=f"addresses of {target.text}")

    async def _follow_name(self, target: Target, resolution: Resolution) -> None:
        async with aclosing(resolution.answers()) as answers:
            async for answer in answers:
                if isinstance(answer, OSError):
                    self._complain(target, f"{target.text}: {answer.strerror or answer}")
                    continue
                self._complaints.pop(target, None)
                addresses = tuple(joined(address, target.port) for address in answer)
                if self._found.get(target) != addresses:
                    log.info("%s has %d addresses", target.text, len(addresses))
                    self._found[target] = addresses
                    self._settle()

    def _complain(self, target: Target, why: str) -> None:
        if self._complaints.get(target) != why:
            log.warning("no addresses: %s", why)
            self._complaints[target] = why
            self._changed()

    def _forget(self, target: Target) -> None:
        task = self._targets.pop(target)
        if task is not None:
            task.cancel()
        for known in (self._found, self._resolutions, self._complaints):
            known.pop(target, None)

    # ---- workers ----

    def _settle(self) -> None:
        """Connects to every address that is wanted and leaves the others."""
        wanted = {address: target for target, addresses in self._found.items() for address in addresses}
        for address in [each for each in self._serving if each not in wanted]:
            self._roster.retire(self._serving.pop(address))
        for address, target in wanted.items():
            if address not in self._serving:
                self._serving[address] = self._start(address, target)
        self._changed()

    def _start(self, address: str, target: Target) -> RemoteWorker:
        assert self._model is not None, "follow() comes first"
        taken = {worker.index for worker in (*self._serving.values(), *self._roster.beside)}
        index = next(number for number in itertools.count() if number not in taken)
        around = Surroundings(
            self._config,
            self._world.environment,
            self._reference,
            self._changed,
            lambda: self._missed(target),
            self._tally,
        )
        worker = RemoteWorker(self._model, index, address, target.host, around)
        self._roster.start(worker)
        return worker

    def _missed(self, target: Target) -> None:
        if target in self._resolutions:
            self._resolutions[target].ask()

    async def _left(self, worker: RemoteWorker) -> None:
        self._changed()
