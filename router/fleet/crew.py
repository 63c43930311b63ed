"""All workers of one model: processes of this gateway and workers on other hosts, seen alike.

Owned by replicaset.ReplicaSet, which loads and unloads the processes and follows the others. Invariant: all that are in
service serve the same model (likeness.py); the one in a file of this host has the last word on which.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from protos import inference_pb2 as pb
from router.errors import RouterError
from router.fleet.lifecycle import ModelState, ReplicaStatus, most_alive
from router.remotes.likeness import alike, misfit
from router.remotes.remote import RemoteWorker
from router.remotes.remoteset import RemoteWorkers
from router.rpc import places
from router.rpc.replica import Replica
from router.supervision.progress import Progress
from router.supervision.workers import Workers


class Worker(Protocol):
    """What supervisor.WorkerProcess and remote.RemoteWorker have in common."""

    @property
    def state(self) -> ModelState: ...

    @property
    def reason(self) -> str: ...

    @property
    def replica(self) -> Replica | None: ...

    @property
    def description(self) -> pb.DescribeReply | None: ...

    @property
    def progress(self) -> Progress | None: ...

    @property
    def last_lines(self) -> Sequence[str]: ...

    @property
    def exit_code(self) -> int | None: ...

    @property
    def recovering(self) -> bool: ...

    @property
    def starting(self) -> bool: ...

    def status(self) -> ReplicaStatus: ...

    def refusal(self) -> RouterError: ...


class Crew:
    """Iterating gives those in service, the processes first."""

    def __init__(self, processes: Workers, remote: RemoteWorkers) -> None:
        self._processes = processes
        self._remote = remote

    def __iter__(self) -> Iterator[Worker]:
        yield from self._processes
        yield from self._remote

    def __bool__(self) -> bool:
        return any(True for _ in self)

    @property
    def state(self) -> ModelState | None:
        """Of the one that is most alive; None: there are none and none are expected."""
        states = {worker.state for worker in self._processes} | self._remote.states
        return most_alive(states) if states else None

    def open(self) -> tuple[Replica, ...]:
        """Those that can be called now, perhaps none."""
        ready = (worker.replica for worker in self if worker.state is ModelState.READY)
        return tuple(replica for replica in ready if replica is not None)

    def living(self) -> tuple[Replica, ...]:
        """Those that have something to tell: those that can be called, and those that drain."""
        beside: Sequence[Worker] = (*self._processes.beside, *self._remote.beside)
        return tuple(worker.replica for worker in (*self, *beside) if worker.replica is not None)

    def statuses(self) -> tuple[ReplicaStatus, ...]:
        """Of those in service, then of those that warm up or drain."""
        beside: Sequence[Worker] = (*self._processes.beside, *self._remote.beside)
        return tuple(worker.status() for worker in (*self, *beside))

    def descriptions(self) -> list[pb.DescribeReply]:
        """What those in service have told: first those that requests go to, then the processes."""
        told = (*(replica.description for replica in alike(self.open())), *(worker.description for worker in self))
        return [description for description in told if description is not None]

    def num_parallel(self) -> int:
        """How many requests those compute at once that they go to, or, if none can be called, one that has told."""
        each = (replica.description for replica in alike(self.open()))
        together = sum(description.num_parallel for description in each if description is not None)
        return together or next((told.num_parallel for told in self.descriptions()), 0)

    def number_places(self) -> None:
        """Gives those that can be called numbers for their places, and leaves room for the others that have told."""
        first, alone = 0, len([*self]) < 2
        for worker in self:
            num_places = worker.description.num_parallel if worker.description is not None else 0
            if worker.replica is not None:
                worker.replica.place_numbers = places.ALL if alone else range(first, first + num_places)
            first += num_places

    # ---- one model ----

    def reference(self, asking: RemoteWorker) -> pb.DescribeReply | None:
        """What the worker has to be like: the processes requests go to, else the first of the others that is ready."""
        called = [worker.replica for worker in self._processes if worker.replica is not None]
        told = (*(replica.description for replica in alike(called)), *(each.description for each in self._processes))
        ours = next((description for description in told if description is not None), None)
        others = (each for each in self._remote if each is not asking and each.state is ModelState.READY)
        return ours or next((each.description for each in others if each.description is not None), None)

    def check(self) -> None:
        """Has those connect anew whose likeness is to be judged again: the model of a process is known now."""
        for worker in self._remote:
            told, reference = worker.description, self.reference(worker)
            if worker.state is ModelState.READY and told and reference and misfit(told, reference):
                worker.reconnect()
