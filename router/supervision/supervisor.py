"""One replica's worker process: started, watched, restarted, stopped.

        LOADING ──serving──> READY ──exit──> CRASHED ──delay──> LOADING
           └────exit──> CRASHED, or FAILED if the file is no good or it has crashed too often
        any ──retire──> DRAINING ──its calls have ended──> STOPPED <──stop── any

Made by replicaset.py, one for each replica of a model that is loaded; the task of `run` owns the process.
Invariant: it is started for one configuration, never changes that, and after STOPPED never comes back.
"""

import asyncio
import logging
import math
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from protos import inference_pb2 as pb
from router.config import ModelConfig, SupervisionConfig
from router.errors import ModelFailed, ModelLoading, RouterError, Unavailable
from router.fleet.lifecycle import ModelState, ReplicaStatus
from router.fleet.tally import Tally
from router.rpc.replica import Replica
from router.supervision.health import hung
from router.supervision.nursery import NurseryEnded
from router.supervision.origin import Origin
from router.supervision.process import Child
from router.supervision.progress import Progress, read_progress
from router.supervision.restarts import RestartPolicy, describe_exit, shell_code
from router.supervision.silence import activity, computed, silence
from router.supervision.tail import Tail

log = logging.getLogger("corral.supervisor")

EXIT_BAD_MODEL = 2  # the worker's way to say that a restart will not help
NUM_LAST_LINES = 50  # of what is known of a model


@dataclass(frozen=True, slots=True)
class Site:
    """Where a worker lives: its socket, and what its core lease is called."""

    socket: Path
    lease: str


class WorkerProcess:
    """One replica's worker through all its lives."""

    def __init__(
        self,
        model: ModelConfig,
        index: int,
        config: SupervisionConfig,
        site: Site,
        origin: Origin,
        changed: Callable[[], None],
        output: Tail,
        tally: Tally,
    ) -> None:
        """`changed` is called after every change of what its properties and status say; `output` gets its lines.

        `tally` gets its counts and its crashes.
        """
        self.model = model
        self.index = index
        self.name = f"{model.name}/{index}"
        self.origin = origin
        self.state = ModelState.LOADING
        self.replica: Replica | None = None  # while it is READY or DRAINING
        self.description: pb.DescribeReply | None = None  # once it has been ready
        self.num_bytes: int | None = None  # that it took when it became ready
        self.progress: Progress | None = None
        self.last_lines: deque[str] = deque(maxlen=NUM_LAST_LINES)
        self.reason = ""
        self.exit_code: int | None = None  # of its last life, if that ended by itself
        self._config = config
        self._site = site
        self._changed = changed
        self._output = output
        self._tally = tally
        self._policy = RestartPolicy(config)
        self._stopping = asyncio.Event()
        self._grace = config.stop_grace
        self._child: Child | None = None
        self._retry_after = 1
        self._num_lines = 0  # heard
        self._hung = ""  # why this life had to be ended, if it had to
        self._num_crashes = 0
        self._was_ready = False  # in the life before this one

    def status(self) -> ReplicaStatus:
        return ReplicaStatus(
            index=self.index,
            name=self.name,
            state=self.state,
            pid=self._child.pid if self._child else None,
            address=self.replica.address if self.replica else None,
            num_open=self.replica.num_open if self.replica else 0,
            num_restarts=self._num_crashes,
            reason=self.reason,
        )

    @property
    def settled(self) -> bool:
        """Whether it has been ready once, or never will be."""
        return self.description is not None or self.state in (ModelState.FAILED, ModelState.STOPPED)

    @property
    def tried(self) -> bool:
        """Whether it is settled, or its first life has ended in a crash."""
        return self.settled or self._num_crashes > 0

    @property
    def recovering(self) -> bool:
        """Whether it served and may soon do so again; READY without a replica is a life that was not judged yet."""
        if self.state is ModelState.READY:
            return True
        return self._was_ready and self.state in (ModelState.LOADING, ModelState.CRASHED)

    @property
    def starting(self) -> bool:
        """Whether it loads for the first time."""
        return self.state is ModelState.LOADING and not self._num_crashes

    def refusal(self) -> RouterError:
        """Why it cannot be called now."""
        name = self.model.name
        match self.state:
            case ModelState.FAILED:
                return ModelFailed(name, self.reason)
            case ModelState.STOPPED:
                return Unavailable("the server is shutting down")
            case ModelState.LOADING if not self._num_crashes:
                return ModelLoading()
            case _:
                return Unavailable(f"model '{name}' is being restarted ({self.reason})", self._retry_after)

    def stop(self, grace: float) -> None:
        """Asks run() to end. May be called again with less grace."""
        self._grace = grace
        self._stopping.set()
        if grace <= 0 and self._child is not None:
            self._child.kill()

    async def retire(self) -> None:
        """Lets the calls that are open end and then stops it; it is given no new ones. stop() may cut this short."""
        self._enter(ModelState.DRAINING, self.reason)
        if self.replica is not None:
            await self.replica.idle()
        if self.replica is not None:
            await self.replica.tell_last(self._config.probe_timeout)
        self.stop(self._grace)

    async def run(self) -> None:
        """Lives, one after the other, until stop(), or until one ends while it drains."""
        loop = asyncio.get_running_loop()
        while self._wanted:
            began = loop.time()
            try:
                returncode = await self._live()
            except OSError as error:
                self._enter(ModelState.FAILED, f"cannot start the worker: {error}")
                break
            except Exception:
                log.exception("the supervision of %s failed", self.name)
                self._enter(ModelState.FAILED, "internal error")
                break
            if self._wanted:
                await self._after_exit(returncode, loop.time(), loop.time() - began)
        await self._stopping.wait()
        self._enter(ModelState.STOPPED, self.reason)

    @property
    def _wanted(self) -> bool:
        return not self._stopping.is_set() and self.state is not ModelState.DRAINING

    async def _live(self) -> int:
        """One life, from spawn to exit status."""
        self.progress = None
        self._hung = ""
        self._enter(ModelState.LOADING, self.reason)
        token = secrets.token_hex(32)
        address = _fresh_address(self._site.socket)
        try:
            child = self._child = await self._spawned(address, token)
        except NurseryEnded as ended:
            return ended.returncode
        if child is None:
            return 0
        replica = Replica(self.model.name, address, token, self.index, life=self._tally.worker(from_start=True))
        ends = (child.wait(), self._stopping.wait(), self._watch(replica, child))
        tasks = [asyncio.create_task(work) for work in ends]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return await child.stop(self._grace if self._stopping.is_set() else 0.0)
        finally:
            child.kill()
            for task in tasks:
                task.cancel()
            self._was_ready = self.state is ModelState.READY
            self._child = None
            self.replica = None
            await replica.close()

    async def _spawned(self, address: str, token: str) -> Child | None:
        """A process, for which a nursery may have to load the model first; None if it is stopped meanwhile."""
        spawning = asyncio.create_task(self.origin.spawn(self._arguments(address), token, self._hear))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((spawning, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if spawning.done():
            return spawning.result()
        spawning.cancel()
        return None

    async def _watch(self, replica: Replica, child: Child) -> None:
        """READY as soon as the worker serves; returns when it is hung. Runs beside the life it belongs to."""
        announcing = asyncio.create_task(self._announce(replica, child))
        listening = asyncio.create_task(silence(lambda: (self._num_lines, computed(child.pid))))
        try:
            await asyncio.wait((announcing, listening), return_when=asyncio.FIRST_COMPLETED)
            if not announcing.done():
                self._hung = listening.result()
                return
        finally:
            announcing.cancel()
            listening.cancel()
        description = announcing.result()
        clock = asyncio.get_running_loop().time
        self._hung = await hung(replica, description, self._config, clock, lambda: activity(child.pid))

    async def _announce(self, replica: Replica, child: Child) -> pb.DescribeReply:
        while True:
            try:
                await replica.serving()
                self.description = await replica.describe(pb.DescribeRequest())
                self.num_bytes = (await replica.stats(pb.StatsRequest())).resident_bytes
                break
            except RouterError:
                await asyncio.sleep(0.05)
        replica.description, replica.contents = self.description, child.contents()
        if self._wanted:
            self.replica = replica
            self._enter(ModelState.READY)
            log.info("%s is ready", self.name)
        return self.description

    async def _after_exit(self, returncode: int, now: float, lived: float) -> None:
        """Judges an exit nobody asked for: FAILED, or CRASHED and the wait before the next life."""
        self._num_crashes += 1
        self._tally.num_crashes += 1
        self.exit_code = shell_code(returncode)
        cause = self._cause(returncode)
        if returncode == EXIT_BAD_MODEL and self.description is None:
            delay = None
        else:
            delay = self._policy.after_crash(now, lived)
        if delay is None:
            log.error("%s failed: %s", self.name, cause)
            self._enter(ModelState.FAILED, cause)
            await self._stopping.wait()
            return
        log.error("%s ended: %s; it starts again in %.1f s", self.name, cause, delay)
        self._retry_after = max(1, math.ceil(delay))
        self._enter(ModelState.CRASHED, cause)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay)

    def _cause(self, returncode: int) -> str:
        """Why it was killed, the worker's own last word, or its exit status."""
        if self._hung:
            return self._hung
        if returncode < 0:
            return describe_exit(returncode)
        complaints = (line.partition("error: ")[2] for line in reversed(self.last_lines))
        return next(filter(None, complaints), describe_exit(returncode))

    def _arguments(self, address: str) -> list[str]:
        return [
            "-m",
            str(self.model.path),
            "--listen",
            address,
            "--core-lease",
            self._site.lease,
            "--core-weight",
            f"{self.model.weight:g}",
            *self.model.worker_arguments,
        ]

    def _hear(self, line: str) -> None:
        """One line of the worker's output: progress, or something for the log."""
        self._num_lines += 1
        progress = read_progress(line)
        if progress is not None:
            self.progress = progress
            self._changed()
        elif line:
            self.last_lines.append(line)
            self._output.add(line)
            log.info("[%s] %s", self.name, line)

    def _enter(self, state: ModelState, reason: str = "") -> None:
        self.state = state
        self.reason = reason
        self._changed()


def _fresh_address(socket: Path) -> str:
    """The address of a socket without the file that a killed worker left there."""
    socket.unlink(missing_ok=True)
    return f"unix:{socket}"
