"""The models' workers: started, watched, restarted, stopped.

    WorkerProcess   one model's worker through all its lives; one asyncio task owns it
    Fleet           all of them, by model name; made by app.py, asked by dispatch.py

        LOADING ──serving──> READY ──exit──> CRASHED ──delay──> LOADING
           └────exit──> CRASHED, or FAILED if the file is no good or it has crashed too often
        any ──stop──> STOPPED

Invariant: only WorkerProcess.run changes a worker's state; a request that needs a worker waits in ready().
"""

import asyncio
import enum
import logging
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from protos import inference_pb2 as pb
from router.config import CoreLease, ModelConfig, SupervisionConfig
from router.errors import ModelFailed, ModelLoading, RouterError, Unavailable
from router.process import Child
from router.progress import Progress, read_progress
from router.replica import Replica
from router.restarts import RestartPolicy, describe_exit
from router.runfolder import RunFolder
from router.tail import Tail

log = logging.getLogger("corral.supervisor")

EXIT_BAD_MODEL = 2  # the worker's way to say that a restart will not help
NUM_LAST_LINES = 50  # of what is known of a model
_SECRET_VARIABLES = ("_API_KEY", "_TOKEN", "_SECRET", "_PASSWORD")


class ModelState(enum.StrEnum):
    LOADING = "loading"
    READY = "ready"
    CRASHED = "crashed"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What is known of one model now."""

    name: str
    aliases: tuple[str, ...]  # every name it answers to, the first is `name`
    path: Path
    state: ModelState
    reason: str  # of a crash or failure, one line, else empty
    progress: Progress | None  # of the loading, if the worker has told
    pid: int | None
    num_crashes: int
    last_lines: tuple[str, ...]  # of the worker's output
    description: pb.DescribeReply | None  # once it has been ready


class WorkerProcess:
    """One model's worker through all its lives."""

    def __init__(self, model: ModelConfig, config: SupervisionConfig) -> None:
        self.model = model
        self._config = config
        self._policy = RestartPolicy(config)
        self._state = ModelState.LOADING
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._grace = config.stop_grace
        self._child: Child | None = None
        self._replica: Replica | None = None
        self._description: pb.DescribeReply | None = None
        self._progress: Progress | None = None
        self.output = Tail()
        self._reason = ""
        self._retry_after = 1
        self._num_crashes = 0
        self._was_ready = False  # in the life before this one

    def status(self) -> ModelStatus:
        return ModelStatus(
            name=self.model.name,
            aliases=self.model.names,
            path=self.model.path,
            state=self._state,
            reason=self._reason,
            progress=self._progress,
            pid=self._child.pid if self._child else None,
            num_crashes=self._num_crashes,
            last_lines=self.output.last(NUM_LAST_LINES),
            description=self._description,
        )

    @property
    def settled(self) -> bool:
        """Whether it has been ready once, or never will be."""
        return self._description is not None or self._state in (ModelState.FAILED, ModelState.STOPPED)

    @property
    def num_parallel(self) -> int:
        return self._description.num_parallel if self._description is not None else 0

    async def ready(self, lost: Replica | None = None) -> Replica:
        """A replica to call, not the one the caller has just lost.

        Waits only for a worker that was ready and has crashed once; every other state is told at once,
        by ModelLoading, Unavailable or ModelFailed.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.recovery_wait):
                while self._recovering and self._replica in (None, lost):
                    await self._changed.wait()
        if self._state is ModelState.READY and self._replica is not None and self._replica is not lost:
            return self._replica
        raise self._refusal()

    async def change(self) -> None:
        """Returns when the state or the progress has changed."""
        await self._changed.wait()

    def begin_drain(self) -> None:
        """Lets everyone go who only watches."""
        self.output.end()
        self._tell()

    def stop(self, grace: float) -> None:
        """Asks run() to end. May be called again with less grace."""
        self._grace = grace
        self._stopping.set()
        if grace <= 0 and self._child is not None:
            self._child.kill()

    async def run(self, socket: Path, lease: str) -> None:
        """Lives, one after the other, until stop(); each listens on the socket and shares the cores by the lease."""
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            began = loop.time()
            try:
                returncode = await self._live(socket, lease)
            except OSError as error:
                self._enter(ModelState.FAILED, f"cannot start the worker: {error}")
                break
            except Exception:
                log.exception("the supervision of %s failed", self.model.name)
                self._enter(ModelState.FAILED, "internal error")
                break
            if not self._stopping.is_set():
                await self._after_exit(returncode, loop.time(), loop.time() - began)
        await self._stopping.wait()
        self._enter(ModelState.STOPPED, self._reason)

    async def _live(self, socket: Path, lease: str) -> int:
        """One life, from spawn to exit status."""
        self._progress = None
        self._enter(ModelState.LOADING, self._reason)
        token = secrets.token_hex(32)
        address = _fresh_address(socket)
        command, environment = self._command(address, lease), _environment(os.environ, token)
        child = self._child = await Child.spawn(command, environment, self._hear)
        replica = Replica(self.model.name, address, token)
        tasks = [asyncio.create_task(work) for work in (child.wait(), self._stopping.wait(), self._announce(replica))]
        try:
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
            return await child.stop(self._grace if self._stopping.is_set() else 0.0)
        finally:
            child.kill()
            for task in tasks:
                task.cancel()
            self._was_ready = self._state is ModelState.READY
            self._child = None
            self._replica = None
            await replica.close()

    async def _announce(self, replica: Replica) -> None:
        """READY as soon as the worker serves; runs beside the life it belongs to."""
        while True:
            try:
                await replica.serving()
                self._description = await replica.describe(pb.DescribeRequest())
                break
            except RouterError:
                await asyncio.sleep(0.05)
        self._replica = replica
        self._enter(ModelState.READY)
        log.info("model %s is ready", self.model.name)

    async def _after_exit(self, returncode: int, now: float, lived: float) -> None:
        """Judges an exit nobody asked for: FAILED, or CRASHED and the wait before the next life."""
        self._num_crashes += 1
        cause = self._cause(returncode)
        if returncode == EXIT_BAD_MODEL and self._description is None:
            delay = None
        else:
            delay = self._policy.after_crash(now, lived)
        if delay is None:
            log.error("model %s failed: %s", self.model.name, cause)
            self._enter(ModelState.FAILED, cause)
            await self._stopping.wait()
            return
        log.error("the worker of %s ended: %s; it starts again in %.1f s", self.model.name, cause, delay)
        self._retry_after = max(1, math.ceil(delay))
        self._enter(ModelState.CRASHED, cause)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay)

    def _cause(self, returncode: int) -> str:
        """The worker's own last word if it had one, else its exit status."""
        if returncode < 0:
            return describe_exit(returncode)
        complaints = (line.partition("error: ")[2] for line in reversed(self.output.last(NUM_LAST_LINES)))
        return next(filter(None, complaints), describe_exit(returncode))

    @property
    def _recovering(self) -> bool:
        """Whether a replica may be had soon; READY without one is a life that has just ended and was not judged yet."""
        if self._state is ModelState.READY:
            return True
        return self._was_ready and self._state in (ModelState.LOADING, ModelState.CRASHED)

    def _refusal(self) -> RouterError:
        name = self.model.name
        match self._state:
            case ModelState.FAILED:
                return ModelFailed(name, self._reason)
            case ModelState.STOPPED:
                return Unavailable("the server is shutting down")
            case ModelState.LOADING if not self._num_crashes:
                return ModelLoading()
            case _:
                return Unavailable(f"model '{name}' is being restarted ({self._reason})", self._retry_after)

    def _command(self, address: str, lease: str) -> list[str]:
        return [
            *self._config.worker_command,
            "-m",
            str(self.model.path),
            "--listen",
            address,
            "--core-lease",
            lease,
            *self.model.worker_arguments,
        ]

    def _hear(self, line: str) -> None:
        """One line of the worker's output: progress, or something for the log."""
        progress = read_progress(line)
        if progress is not None:
            self._progress = progress
            self._tell()
        elif line:
            self.output.add(line)
            log.info("[%s] %s", self.model.name, line)

    def _enter(self, state: ModelState, reason: str = "") -> None:
        self._state = state
        self._reason = reason
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Fleet:
    """Every model's worker. An async context: entering starts them, leaving stops them."""

    def __init__(self, models: Sequence[ModelConfig], config: SupervisionConfig) -> None:
        self._config = config
        self._workers = {model.name: WorkerProcess(model, config) for model in models}
        self._tasks: list[asyncio.Task[None]] = []
        self._folder: RunFolder | None = None
        self.draining = False  # requests are still served, but no more are wanted

    async def __aenter__(self) -> Self:
        self._folder = RunFolder(os.environ)
        lease = _lease_argument(self._config.core_lease, self._folder)
        for number, (name, worker) in enumerate(self._workers.items()):
            run = worker.run(self._folder.socket(number), lease)
            self._tasks.append(asyncio.create_task(run, name=f"worker {name}"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(self._config.stop_grace)

    async def stop(self, grace: float) -> None:
        """Stops every worker and waits until no process is left. Idempotent; a later call may shorten the grace."""
        for worker in self._workers.values():
            worker.stop(grace)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    async def ready(self, model: str, lost: Replica | None = None) -> Replica:
        """See WorkerProcess.ready."""
        return await self._workers[model].ready(lost)

    def num_parallel(self, model: str) -> int:
        """How many requests the model computes at once; 0 until it has been ready once."""
        return self._workers[model].num_parallel

    def output(self, model: str) -> Tail:
        """The last lines of the model's workers."""
        return self._workers[model].output

    def models(self) -> list[ModelStatus]:
        """In the order of configuration."""
        return [worker.status() for worker in self._workers.values()]

    @property
    def settled(self) -> bool:
        """Whether every model has been ready once, or never will be."""
        return all(worker.settled for worker in self._workers.values())

    async def change(self) -> None:
        """Returns when any worker's state or progress has changed."""
        waits = [asyncio.create_task(worker.change()) for worker in self._workers.values()]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def begin_drain(self) -> None:
        """From now on check_ready refuses; requests are still served."""
        self.draining = True
        for worker in self._workers.values():
            worker.begin_drain()

    def check_health(self) -> None:
        """Raises ModelLoading until every model has settled, then Unavailable while none is ready."""
        if not self.settled:
            raise ModelLoading
        if not any(status.state is ModelState.READY for status in self.models()):
            raise Unavailable("no model is ready")

    def check_ready(self) -> None:
        """As check_health; also Unavailable when draining."""
        if self.draining:
            raise Unavailable("the server is shutting down")
        self.check_health()


def _fresh_address(socket: Path) -> str:
    """The address of a socket without the file that a killed worker left there."""
    socket.unlink(missing_ok=True)
    return f"unix:{socket}"


def _lease_argument(lease: CoreLease, folder: RunFolder) -> str:
    """What the worker calls it."""
    return {CoreLease.AUTO: str(folder.core_lease), CoreLease.ON: "host", CoreLease.OFF: "off"}[lease]


def _environment(inherited: Mapping[str, str], token: str) -> dict[str, str]:
    """The worker's environment: ours without secrets and without settings meant for the gateway, and its token."""
    kept = {
        name: value
        for name, value in inherited.items()
        if not name.endswith(_SECRET_VARIABLES) and not name.startswith("LLAMA_")
    }
    return {**kept, "CORRAL_WORKER_TOKEN": token}
