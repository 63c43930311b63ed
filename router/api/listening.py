"""Streams of events that go on for as long as their key may hear them: what happens in the gateway, not an answer.

Used by lifecycle.py and fleet.py. Invariant: no event is sent to a key that is no more valid, or has lost the right to
it; such a stream ends with the error that a new request would get, within CHECK_SECONDS even if nothing happens.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from starlette.requests import Request

from router.api.streaming import EventStream, Frames, SendFrame
from router.config import KeyConfig

CHECK_SECONDS = 1.0
PING_SECONDS = 15.0


def _anything(_: KeyConfig) -> None:
    """Every key of the route's scope may hear it."""


def listening(request: Request, frames: Frames, permit: Callable[[KeyConfig], object] = _anything) -> EventStream:
    """The stream; `permit` raises RouterError for a key that may not hear it, beside what its route asks of it."""

    async def while_permitted(send: SendFrame) -> None:
        async def checked(frame: bytes) -> None:
            permit(request.state.guard.key_by_now(request))
            await send(frame)

        telling = asyncio.ensure_future(frames(checked))
        try:
            while not (await asyncio.wait((telling,), timeout=CHECK_SECONDS))[0]:
                permit(request.state.guard.key_by_now(request))
            telling.result()
        finally:
            telling.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait((telling,))

    return EventStream(while_permitted, PING_SECONDS)
