"""Answers that outlive a function call: server-sent events, and work that ends when its client leaves.

Called by the completion routes. Starlette's own streaming is not used: this class sends no byte before the first
reply, so that a request which fails early gets a plain HTTP error; keeps silence and slow readers in bounds; and
never ends a cut answer as if it were whole. Invariant: however an answer ends, what sends its frames has ended before,
and with it every call to a worker.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from protos import inference_pb2 as pb
from router.dispatch import Generation
from router.errors import InternalError, RouterError, error_body
from router.http.answer import raw

DONE = b"data: [DONE]\n\n"
COMMENT = b":\n\n"
CLIENT_LEFT = 499  # what nginx writes for it; nobody receives it
SHORT_WORK = 0.05  # seconds; within them it is not worth a task to see whether the client leaves
HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]

SendFrame = Callable[[bytes], Awaitable[None]]
Frames = Callable[[SendFrame], Awaitable[None]]  # sends all frames of an answer, the first one as soon as it begins
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Events(Protocol):
    """One generation's replies as frames of one wire format. An empty frame is not sent."""

    def started(self, started: pb.Started) -> bytes: ...

    def progress(self, progress: pb.PromptProgress) -> bytes: ...

    def delta(self, delta: pb.Delta) -> bytes: ...

    def finished(self, finished: pb.Finished) -> bytes: ...


class EventStream(Response):
    """Sends frames as they come. `ping_interval` is in seconds of silence; 0 or less sends no comments."""

    send_timeout = 30.0  # seconds a reader may let a frame wait
    tick = 0.5  # seconds between looks at the clock

    def __init__(
        self,
        frames: Frames,
        ping_interval: float = 30.0,
        more_headers: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        super().__init__()
        self._frames = frames
        self._ping_interval = ping_interval
        self._more_headers = more_headers  # known once the first reply is there
        self._begun = False
        self._sending = False
        self._since = 0.0  # when the last send began, or ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = asyncio.create_task(self._write(send))
        watchers = asyncio.create_task(_gone(receive)), asyncio.create_task(self._watch(send))
        try:
            await asyncio.wait((writer, *watchers), return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                writer.result()
        finally:
            await _cancel(writer, *watchers)

    async def _write(self, send: Send) -> None:
        """Raises RouterError if nothing has been sent yet; later errors become the last event."""
        try:
            await self._frames(partial(self._write_frame, send))
        except RouterError as error:
            await self._fail(send, error)
        except Exception:
            _log.exception("a stream failed")
            await self._fail(send, InternalError())
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write_frame(self, send: Send, frame: bytes) -> None:
        if not self._begun:
            await self._begin(send)
        if frame:
            await self._send(send, frame)

    async def _begin(self, send: Send) -> None:
        headers = [*HEADERS, *raw(self._more_headers())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._begun = True

    async def _fail(self, send: Send, error: RouterError) -> None:
        if not self._begun:
            raise error
        await self._send(send, b"data: " + error_body(error) + b"\n\n")

    async def _send(self, send: Send, frame: bytes) -> None:
        self._sending, self._since = True, monotonic()
        await send({"type": "http.response.body", "body": frame, "more_body": True})
        self._sending, self._since = False, monotonic()

    async def _watch(self, send: Send) -> None:
        """Fills silence with comments. Returns when a reader takes too long."""
        while True:
            await asyncio.sleep(self.tick)
            waited = monotonic() - self._since
            if self._sending and waited > self.send_timeout:
                return
            if self._begun and not self._sending and 0 < self._ping_interval < waited:
                async with asyncio.timeout(self.send_timeout):
                    await self._send(send, COMMENT)


async def answer(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The response of `work`, which is cancelled when the client leaves first."""
    task = asyncio.current_task()
    assert task is not None
    watching: asyncio.Task[None] | None = None
    working = True
    has_left = False

    def watch() -> None:
        nonlocal watching
        watching = asyncio.create_task(_gone(request.receive))
        watching.add_done_callback(leave)

    def leave(_: asyncio.Task[None]) -> None:
        nonlocal has_left
        if working:
            has_left = True
            task.cancel()

    soon = asyncio.get_running_loop().call_later(SHORT_WORK, watch)
    try:
        return await work
    except asyncio.CancelledError:
        if has_left and task.uncancel() == 0:
            return Response(status_code=CLIENT_LEFT)
        raise
    finally:
        working = False
        soon.cancel()
        if watching is not None:
            watching.cancel()


async def gather(work: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """All results in order; the first failure cancels the rest."""
    if len(work) == 1:
        return [await work[0]]
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _cancel(*tasks)


async def encode(
    generations: Sequence[Generation], events: Sequence[Events], closing: Callable[[], bytes], send: SendFrame
) -> None:
    """Sends the frames of one answer: its generations' replies as they come, each in its own events, then `closing`.

    Frames of a generation that are ready at the same time come as one.
    """
    if len(generations) == 1:
        await generations[0](partial(_encode, events[0], send))
    else:
        turn = asyncio.Lock()

        async def send_in_turn(frame: bytes) -> None:
            async with turn:
                await send(frame)

        pairs = zip(generations, events, strict=True)
        await gather([generation(partial(_encode, each, send_in_turn)) for generation, each in pairs])
    await send(closing())


async def _encode(events: Events, send: SendFrame, replies: list[pb.GenerateReply]) -> None:
    await send(b"".join([_frame(events, reply) for reply in replies]))


def _frame(events: Events, reply: pb.GenerateReply) -> bytes:
    if reply.HasField("delta"):
        return events.delta(reply.delta)
    if reply.HasField("progress"):
        return events.progress(reply.progress)
    return events.started(reply.started) if reply.HasField("started") else events.finished(reply.finished)


async def _gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    """Ends tasks and waits until they have cleaned up."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
