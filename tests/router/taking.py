"""A generation whose replies are taken one after another, for tests that do something in between."""

import asyncio
from collections.abc import AsyncGenerator

from protos import inference_pb2 as pb
from router.dispatch import Attempt, Dispatcher, Turn


async def taken(
    dispatcher: Dispatcher, attempt: Attempt, request: pb.GenerateRequest, turn: Turn
) -> AsyncGenerator[list[pb.GenerateReply], None]:
    """Its replies as they come. Raises what ends it; closing this cancels it."""
    queue: asyncio.Queue[list[pb.GenerateReply]] = asyncio.Queue()

    async def run() -> None:
        try:
            await dispatcher.generate(attempt, request, turn, queue.put)
        finally:
            queue.put_nowait([])

    task = asyncio.create_task(run())
    try:
        while replies := await queue.get():
            yield replies
        await task
    finally:
        task.cancel()
        await asyncio.wait((task,))
