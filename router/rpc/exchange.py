"""All generations a worker does for this gateway, over one gRPC stream: a stream for each of them would cost far more.

Opened by replica.py. What is to be said at the same time shares a message, in both directions. Nobody waits for another
one's reader: what it does not take in time is put together, so that no more than its answer is kept. Invariant: every
call ends, with Finished or with an error, whatever becomes of the stream.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Self

import grpc

from protos import inference_pb2 as pb
from router.errors import BodyTooLarge, RouterError, WorkerFailed
from router.rpc.workererrors import failure, lost, refusal

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MAX_REQUEST_BYTES = MAX_MESSAGE_BYTES - 1024  # with its number, a message
_FULL_MESSAGE = 1 << 20  # bytes, from which on the next request goes into the next message
_MAX_PENDING = 16  # replies of a call; more are put together


class Call:
    """One generation: what has come of it and was not taken yet. Leaving it cancels what has not ended."""

    __slots__ = ("_error", "_exchange", "_left", "_number", "_replies", "_waiter", "has_arrived", "has_ended")

    def __init__(self, exchange: "Exchange", number: int, left: Callable[[], None]) -> None:
        self.has_arrived = False  # at the worker
        self.has_ended = False  # nothing will come after what has
        self._exchange = exchange
        self._number = number
        self._left = left
        self._replies: list[pb.GenerateReply] = []
        self._error: RouterError | None = None  # after those replies
        self._waiter: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        self._left()

    async def take(self) -> list[pb.GenerateReply]:
        """The next replies, once there are some; none after the last. Raises RouterError."""
        if not self._replies and not self.has_ended:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        replies, self._replies = self._replies, []
        if not replies and self._error is not None:
            raise self._error
        return replies

    def cancel(self) -> None:
        """Frees what it holds in the worker; nothing happens if it has ended."""
        if not self.has_ended:
            self.has_ended = True
            self._exchange.cancel(self._number)

    def put(self, reply: pb.GenerateReply) -> None:
        self.has_ended = reply.HasField("finished")
        if len(self._replies) >= _MAX_PENDING and _are_deltas(self._replies[-1], reply):
            _join(self._replies[-1].delta, reply.delta)
        else:
            self._replies.append(reply)
        self._wake()

    def fail(self, error: RouterError) -> None:
        self.has_ended, self._error = True, error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _are_deltas(last: pb.GenerateReply, next_one: pb.GenerateReply) -> bool:
    return last.HasField("delta") and next_one.HasField("delta")


def _join(delta: pb.Delta, following: pb.Delta) -> None:
    text = delta.text + following.text
    delta.MergeFrom(following)
    delta.text = text


class Exchange:
    """One stream, from its opening until it breaks or is closed."""

    def __init__(self, model: str, stream: Any) -> None:
        """`stream`: a call of Serve that has not been used yet."""
        self.is_open = True
        self._model = model
        self._stream = stream
        self._calls: dict[int, Call] = {}
        self._num_begun = 0
        self._outbox: deque[tuple[int, pb.GenerateRequest | None, int]] = deque()  # calls to begin; None: to cancel
        self._wake = asyncio.Event()
        self._writer = asyncio.create_task(self._write(), name=f"to {model}")
        self._reader = asyncio.create_task(self._read(), name=f"from {model}")

    def begin(self, request: pb.GenerateRequest, left: Callable[[], None] = lambda: None) -> Call:
        """`left` is called when the call is left. Raises BodyTooLarge."""
        num_bytes = request.ByteSize()
        if num_bytes > MAX_REQUEST_BYTES:
            raise BodyTooLarge(MAX_REQUEST_BYTES)
        self._num_begun += 1
        number = self._num_begun
        call = self._calls[number] = Call(self, number, left)
        self._say(number, request, num_bytes)
        return call

    def cancel(self, number: int) -> None:
        """Called by the call itself."""
        if self._calls.pop(number, None) is not None:
            self._say(number, None, 0)

    def close(self) -> None:
        """Breaks it off; calls that are open are lost."""
        self._stream.cancel()
        self._writer.cancel()

    @property
    def is_idle(self) -> bool:
        return not self._calls

    def _say(self, number: int, request: pb.GenerateRequest | None, num_bytes: int) -> None:
        self._outbox.append((number, request, num_bytes))
        self._wake.set()

    async def _write(self) -> None:
        """Ends silently with the stream, of which the reader tells."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._outbox:
                    await self._stream.write(self._next_message())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return

    def _next_message(self) -> pb.ServeRequest:
        message, total = pb.ServeRequest(), 0
        while self._outbox and total < _FULL_MESSAGE:
            number, request, num_bytes = self._outbox.popleft()
            if request is None:
                message.cancel.append(number)
            else:
                message.begin.add(call=number, request=request)
                total += num_bytes
        return message

    async def _read(self) -> None:
        error: grpc.aio.AioRpcError | None = None
        try:
            async for message in self._stream:
                for reply in message.replies:
                    self._hear(reply)
        except grpc.aio.AioRpcError as raised:
            error = raised
        finally:
            self._over(error)

    def _hear(self, reply: pb.CallReply) -> None:
        call = self._calls.get(reply.call)
        if call is None:  # it was cancelled, which the worker has not heard yet
            return
        match reply.WhichOneof("event"):
            case "reply":
                call.put(reply.reply)
            case "arrived":
                call.has_arrived = True
            case "error":
                call.fail(refusal(reply.error))
            case _:
                call.fail(WorkerFailed(f"the worker of '{self._model}' ended its answer too early"))
        if call.has_ended:
            del self._calls[reply.call]

    def _over(self, error: grpc.aio.AioRpcError | None) -> None:
        """Tells the calls that are open that they are lost, or what the worker said of the stream."""
        self.is_open = False
        self._writer.cancel()
        for call in self._calls.values():
            if error is None:
                call.fail(lost(self._model, had_request=call.has_arrived))
            else:
                call.fail(failure(self._model, error, had_request=call.has_arrived))
        self._calls.clear()
