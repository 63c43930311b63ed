"""One worker on another host: reached, watched, left alone when it does not answer, and taken back when it does.

    CONNECTING ──serving, and the model is the right one──> READY ──says that it ends──> DRAINING
        │ └──another model──> FAILED ──delay──> CONNECTING      └──gone or hung──┐           │
        └──────no answer──────────────> UNREACHABLE ──delay──> CONNECTING  <─────┴───────────┘
        any ──retire──> DRAINING ──its calls have ended──> STOPPED <──stop── any

Made by remoteset.py, one for each address; the task of `run` owns the connection. Other gateways may use the same
worker. Invariant: nothing here loads, unloads or ends a worker; and one that is not READY is given no request.
"""

import asyncio
import hashlib
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from protos import inference_pb2 as pb
from router.config import ModelConfig, SupervisionConfig
from router.errors import ModelFailed, ModelLoading, RouterError, Unavailable
from router.fleet.lifecycle import ModelState, ReplicaStatus
from router.fleet.tally import Tally
from router.remotes.credentials import read_credentials, read_token
from router.remotes.likeness import misfit
from router.rpc.replica import Replica
from router.supervision.health import hung
from router.supervision.restarts import RestartPolicy

log = logging.getLogger("corral.remote")

LOADING_PATIENCE = 30.0  # seconds without news of a worker that loads, before it is asked anew
_RETRY_AFTER = 1.0  # seconds at least


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a remote worker needs to know of the world."""

    config: SupervisionConfig
    environment: Mapping[str, str]  # with the token, if it stands there
    reference: Callable[["RemoteWorker"], pb.DescribeReply | None]  # what another worker of the model has told
    changed: Callable[[], None]  # called after every change of what its properties and status say
    missed: Callable[[], None]  # called when it could not be reached: its address may be an old one
    tally: Tally  # what the workers of the model count


@dataclass(frozen=True, slots=True)
class _Loss:
    """How a connection ended."""

    state: ModelState
    reason: str


class RemoteWorker:
    """One address."""

    progress = None
    num_bytes = None  # of this host's memory
    exit_code = None  # known to its host only
    last_lines: Sequence[str] = ()

    def __init__(self, model: ModelConfig, index: int, address: str, host: str, around: Surroundings) -> None:
        """`host`: what its certificate is for."""
        self.model = model  # may be replaced; the next connection is made as it says
        self.index = index
        self.address = address
        self.state = ModelState.CONNECTING
        self.reason = ""
        self.replica: Replica | None = None  # while it is READY or DRAINING
        self.description: pb.DescribeReply | None = None  # once it has been ready
        self._id = hashlib.blake2b(address.encode(), digest_size=4).hexdigest()  # the same in every gateway
        self._host = host
        self._around = around
        self._config = around.config
        self._policy = RestartPolicy(
            replace(around.config, longest_delay=around.config.longest_reconnect, max_crashes=sys.maxsize)
        )
        self._stopping = asyncio.Event()
        self._again = asyncio.Event()
        self._retires = False
        self._is_loading = False  # as it has said itself
        self._num_losses = 0  # of connections, or attempts
        self._num_restarts = 0  # of those, by which it left service
        self._left = -math.inf  # when it last left service
        self._retry_after = _RETRY_AFTER

    @property
    def name(self) -> str:
        return f"{self.model.name}/{self._id}"

    def status(self) -> ReplicaStatus:
        return ReplicaStatus(
            index=self.index,
            name=self.name,
            state=self.state,
            pid=None,
            address=self.address,
            num_open=self.replica.num_open if self.replica else 0,
            num_restarts=self._num_restarts,
            reason=self.reason,
            is_remote=True,
        )

    @property
    def settled(self) -> bool:
        """Whether it has been ready once, or is known not to be."""
        return self.description is not None or self._num_losses > 0 or self.state is ModelState.STOPPED

    @property
    def recovering(self) -> bool:
        """Whether it served until a moment ago and may soon do so again; READY may be a loss not noticed yet."""
        if self.state is ModelState.READY:
            return True
        lasts = self.state is not ModelState.FAILED and not self._retires
        return lasts and time.monotonic() - self._left < self._config.recovery_wait

    @property
    def starting(self) -> bool:
        """Whether it is reached for the first time, or loads its model."""
        return self.state is ModelState.CONNECTING and (self._is_loading or not self._num_losses)

    def refusal(self) -> RouterError:
        """Why it cannot be called now."""
        name = self.model.name
        match self.state:
            case ModelState.FAILED:
                return ModelFailed(name, self.reason)
            case ModelState.STOPPED:
                return Unavailable("the server is shutting down")
            case _ if self.starting:
                return ModelLoading()
            case _:
                return Unavailable(f"no worker of model '{name}' can be reached", math.ceil(self._retry_after))

    def reconnect(self) -> None:
        """Ends the connection, or the wait for the next one, and makes a new one at once."""
        self._again.set()

    def stop(self, grace: float) -> None:
        """Asks run() to end. Calls that are open end with the connection, whatever the grace."""
        self._stopping.set()

    async def retire(self) -> None:
        """Lets the calls that are open end and then leaves it; it is given no new ones. stop() may cut this short."""
        self._retires = True
        self._enter(ModelState.DRAINING, self.reason)
        if self.replica is not None:
            await self.replica.idle()
        if self.replica is not None:
            await self.replica.tell_last(self._config.probe_timeout)
        self.stop(0)

    async def run(self) -> None:
        """Connections, one after the other, until stop(), or until one ends while it retires."""
        while self._wanted:
            began = time.monotonic()
            try:
                loss = await self._connect()
            except Exception:
                log.exception("the connection to %s at %s failed", self.name, self.address)
                loss = _Loss(ModelState.FAILED, "internal error")
            if self._wanted and loss is not None:
                await self._lose(loss, time.monotonic(), time.monotonic() - began)
            self._again.clear()
        await self._stopping.wait()
        self._enter(ModelState.STOPPED, self.reason)

    @property
    def _wanted(self) -> bool:
        return not (self._stopping.is_set() or self._retires)

    # ---- one connection ----

    async def _connect(self) -> _Loss | None:
        """From the first attempt to its loss; None: it was ended from here."""
        self._enter(ModelState.CONNECTING, self.reason)
        try:
            token = read_token(self.model, self._around.environment)
            credentials = read_credentials(self.model.tls, self._host)
        except (OSError, UnicodeDecodeError) as error:
            return _Loss(ModelState.UNREACHABLE, f"token or certificates cannot be read: {error}")
        life = self._around.tally.worker(from_start=False)
        replica = Replica(self.model.name, self.address, token, self._id, credentials, life)
        described: asyncio.Future[pb.DescribeReply] = asyncio.get_running_loop().create_future()
        ends = [
            asyncio.create_task(work) for work in (self._listen(replica, described), self._probe(replica, described))
        ]
        asked = [asyncio.create_task(event.wait()) for event in (self._stopping, self._again)]
        try:
            await asyncio.wait([*ends, *asked], return_when=asyncio.FIRST_COMPLETED)
            return next((end.result() for end in ends if end.done()), None)
        finally:
            for task in (*ends, *asked):
                task.cancel()
            await self._leave(replica)

    async def _listen(self, replica: Replica, described: "asyncio.Future[pb.DescribeReply]") -> _Loss | None:
        """Announces the worker while it says that it serves. Returns when it says nothing any more; None: ask anew."""
        clock, heard = asyncio.get_running_loop().time, False
        try:
            async with (
                asyncio.timeout(self._config.connect_timeout) as patience,
                aclosing(replica.health()) as reports,
            ):
                async for serves in reports:
                    if not serves:
                        self._withdraw()
                    elif (why := await self._announce(replica, described)) is not None:
                        return _Loss(ModelState.FAILED, why)
                    heard = True
                    patience.reschedule(None if described.done() else clock() + LOADING_PATIENCE)
        except TimeoutError:
            if heard:
                return None
            return _Loss(ModelState.UNREACHABLE, f"no answer within {self._config.connect_timeout:g} s")
        except RouterError as error:
            return _Loss(ModelState.UNREACHABLE, error.message)
        return _Loss(ModelState.UNREACHABLE, "it has ended")

    async def _announce(self, replica: Replica, described: "asyncio.Future[pb.DescribeReply]") -> str | None:
        """READY if it is the right model; else why it is not."""
        told = await replica.describe(pb.DescribeRequest())
        reference = self._around.reference(self)
        if reference is not None and (why := misfit(told, reference)):
            return why
        await replica.stats(pb.StatsRequest())  # what it counts from here on is the model's
        self.description = replica.description = told
        if not described.done():
            described.set_result(told)
        if self._wanted:
            self._is_loading = False
            replica.since = time.monotonic()
            self.replica = replica
            self._enter(ModelState.READY)
            log.info("%s at %s is ready", self.name, self.address)
        return None

    def _withdraw(self) -> None:
        """It answers, but takes no requests: it ends, or has not begun."""
        if self.state is ModelState.READY:
            self._left = time.monotonic()
            self._enter(ModelState.DRAINING, "it is ending")
        elif self.replica is None:
            self._is_loading = True
            self._enter(self.state, "it is loading its model")

    async def _probe(self, replica: Replica, described: "asyncio.Future[pb.DescribeReply]") -> _Loss:
        """Returns when it is hung."""
        told = await described
        return _Loss(ModelState.UNREACHABLE, await hung(replica, told, self._config, asyncio.get_running_loop().time))

    async def _leave(self, replica: Replica) -> None:
        """What is still open fails, and goes on elsewhere."""
        if self.replica is not None:
            self._num_restarts += 1
            if self.state is ModelState.READY:
                self._left = time.monotonic()
                if self._wanted and not self._again.is_set():  # else it was left from here
                    self._around.tally.num_crashes += 1
        self.replica = None
        await replica.close()

    async def _lose(self, loss: _Loss, now: float, lived: float) -> None:
        """Says why, and waits before the next attempt."""
        if loss.reason != self.reason or self.state is not ModelState.CONNECTING:
            log.warning("%s at %s is %s: %s", self.name, self.address, loss.state, loss.reason)
        self._num_losses += 1
        self._is_loading = False
        delay = self._policy.after_crash(now, lived)
        self._retry_after = max(delay or 0.0, _RETRY_AFTER)
        self._enter(loss.state, loss.reason)
        self._around.missed()
        waits = [asyncio.create_task(event.wait()) for event in (self._stopping, self._again)]
        await asyncio.wait(waits, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _enter(self, state: ModelState, reason: str = "") -> None:
        self.state = state
        self.reason = reason
        self._around.changed()
