"""One worker seen over gRPC: calls go out, replies or RouterErrors come back.

Made by supervisor.WorkerProcess and remote.RemoteWorker, one per life of a worker or connection; called by dispatch.py.
Counts its own open calls, so that a worker that is to go can be left in peace until they have ended.
Invariant: no grpc exception leaves this file.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import inference_pb2 as pb
from protos import inference_pb2_grpc
from router.errors import RouterError, WorkerFailed, WorkerLost
from router.fleet.modelfile import Contents
from router.fleet.tally import Life, Tally
from router.remotes.credentials import PLAIN, Credentials, open_channel
from router.rpc import places
from router.rpc.exchange import MAX_MESSAGE_BYTES, Call, Exchange
from router.rpc.workererrors import failure, lost

TOKEN_KEY = "corral-token"  # noqa: S105 (the name of a header)
UNARY_TIMEOUT = 60.0  # seconds
_CLOSE_GRACE = 0.2  # seconds for calls to a dead worker to fail by themselves, which tells more of them
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


class Replica:
    """A channel to one worker."""

    def __init__(
        self,
        model: str,
        address: str,
        token: str,
        index: int | str = 0,
        credentials: Credentials = PLAIN,
        life: Life | None = None,
    ) -> None:
        """`index` tells it from the model's other replicas; `life` learns what it counts."""
        self.model = model
        self.name = f"{model}/{index}"  # what clients are told
        self.life = life or Tally().worker(from_start=True)
        self.num_open = 0  # calls that have begun and not ended
        self._idle = asyncio.Event()
        self._idle.set()
        self.address = address
        self.place_numbers = places.ALL  # of its places among those of all replicas
        self.description: pb.DescribeReply | None = None  # once it serves
        self.contents: Contents | None = None  # of the files that it has loaded; None: on another host
        self.since = time.monotonic()  # when it came to serve
        self._closed = False
        self._metadata = ((TOKEN_KEY, token),) if token else ()
        self._channel = open_channel(address, credentials, _CHANNEL_OPTIONS)
        self._inference: Any = inference_pb2_grpc.InferenceStub(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)
        self._exchange: Exchange | None = None

    def calling(self, request: pb.GenerateRequest) -> Call:
        """A generation, to be entered at once, of which all is taken until Finished; leaving earlier cancels it.

        Raises BodyTooLarge.
        """
        call = self._opened().begin(request, self._end)
        self._begin()
        return call

    async def tokenize(self, request: pb.TokenizeRequest) -> pb.TokenizeReply:
        return await self._call(self._inference.Tokenize, request)

    async def detokenize(self, request: pb.DetokenizeRequest) -> pb.DetokenizeReply:
        return await self._call(self._inference.Detokenize, request)

    async def apply_template(self, request: pb.ApplyTemplateRequest) -> pb.ApplyTemplateReply:
        return await self._call(self._inference.ApplyTemplate, request)

    async def describe(self, request: pb.DescribeRequest) -> pb.DescribeReply:
        return await self._call(self._inference.Describe, request)

    async def stats(self, request: pb.StatsRequest) -> pb.StatsReply:
        stats: pb.StatsReply = await self._call(self._inference.Stats, request)
        self.life.note(stats)
        return stats

    async def places(self, request: pb.PlacesRequest) -> pb.PlacesReply:
        return await self._call(self._inference.Places, request)

    async def change_place(self, request: pb.ChangePlaceRequest) -> pb.ChangePlaceReply:
        return await self._call(self._inference.ChangePlace, request)

    async def probe(self, deadline: float) -> pb.StatsReply:
        """Its figures within so many seconds, for whoever watches it; does not count as an open call."""
        stats: pb.StatsReply = await self._quickly(self._inference.Stats, pb.StatsRequest(), deadline)
        self.life.note(stats)
        return stats

    async def tell_last(self, deadline: float) -> None:
        """Has it tell once more what it has counted, if it does within so many seconds."""
        with suppress(RouterError):
            await self.probe(deadline)

    async def find_prefix(self, request: pb.FindPrefixRequest, deadline: float) -> pb.FindPrefixReply:
        """What it holds of a prompt, within so many seconds; does not count as an open call."""
        return await self._quickly(self._inference.FindPrefix, request, deadline)

    async def serving(self) -> None:
        """Returns once the worker says that it serves, however long that takes. Raises WorkerFailed if it goes away."""
        async with aclosing(self.health(waits=True)) as reports:
            async for serves in reports:
                if serves:
                    self.since = time.monotonic()
                    return
        raise WorkerFailed(f"the worker of '{self.model}' ended its health report")

    async def health(self, *, waits: bool = False) -> AsyncGenerator[bool, None]:
        """Whether the worker serves: at first, and after every change. Raises WorkerFailed when it cannot be asked.

        `waits`: for one that cannot be reached yet.
        """
        call = self._health.Watch(
            health_pb2.HealthCheckRequest(service=""), metadata=self._metadata, wait_for_ready=waits
        )
        try:
            async for reply in call:
                yield reply.status == health_pb2.HealthCheckResponse.SERVING
        except grpc.aio.AioRpcError as error:
            raise WorkerLost(
                f"cannot be reached: {' '.join(str(error.details()).split())}", had_request=False
            ) from None
        finally:
            call.cancel()

    async def idle(self) -> None:
        """Returns once no call is open."""
        await self._idle.wait()

    def _opened(self) -> Exchange:
        """The stream that carries generations: the one there is, or a new one in the place of one that broke."""
        if self._exchange is None or not self._exchange.is_open:
            self._exchange = Exchange(self.model, self._inference.Serve(metadata=self._metadata))
        return self._exchange

    def _begin(self) -> None:
        self.num_open += 1
        self._idle.clear()

    def _end(self) -> None:
        self.num_open -= 1
        if not self.num_open:
            self._idle.set()

    async def close(self) -> None:
        self._closed = True
        if self._exchange is not None and self._exchange.is_idle:
            self._exchange.close()
        await self._channel.close(_CLOSE_GRACE)

    async def _call(self, method: Callable[..., Awaitable[_Reply]], request: _Request) -> _Reply:
        self._begin()
        try:
            return await method(request, metadata=self._metadata, timeout=UNARY_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise failure(self.model, error) from None
        except asyncio.CancelledError:
            self._raise_if_lost()
            raise
        finally:
            self._end()

    async def _quickly(self, method: Callable[..., Awaitable[_Reply]], request: _Request, deadline: float) -> _Reply:
        try:
            return await method(request, metadata=self._metadata, timeout=deadline)
        except grpc.aio.AioRpcError as error:
            raise failure(self.model, error) from None
        except asyncio.CancelledError:
            self._raise_if_lost()
            raise

    def _raise_if_lost(self) -> None:
        """A closed channel cancels its calls; for the caller that is a lost worker, unless it was cancelled itself."""
        task = asyncio.current_task()
        if self._closed and task is not None and not task.cancelling():
            raise lost(self.model, had_request=True)
