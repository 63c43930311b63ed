"""Copies of requests to a second model, whose answers are compared with the first one's and thrown away.

Used by call.py. A copy begins when the first answer does, with the seed in force, and only if the second model is
loaded and nobody waits for it; it never delays the client, and ends when that leaves. The log tells whether the
answers were the same and where they parted, never what they said. Invariant: whatever happens to a copy, the client's
answer is what it would have been without it.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial

from protos import inference_pb2 as pb
from router.config import KeyConfig, LimitsConfig
from router.dispatch import Attempt, Dispatcher, Generation, HandOut, Turn
from router.errors import RouterError
from router.observe.detours import Detours, ShadowEnd
from router.policy.aliases import Route

log = logging.getLogger("corral.shadow")

MAX_COPIES = 4  # at the same time; more are left out
SHADOW_KEY = KeyConfig("shadow", b"", priority=-1000)


@dataclass(slots=True)
class _Answer:
    """What one model said."""

    texts: list[str] = field(default_factory=list)
    num_tokens: int = 0
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    complete: bool = False

    async def take(self, replies: list[pb.GenerateReply]) -> None:
        for reply in replies:
            if reply.HasField("delta"):
                self.texts.append(reply.delta.text)
                self.num_tokens += len(reply.delta.tokens)
            elif reply.HasField("finished"):
                self.complete = True


class Shadows:
    """The copies under way."""

    def __init__(self, dispatcher: Dispatcher, counts: Detours) -> None:
        self._dispatcher = dispatcher
        self._counts = counts
        self._copies: set[asyncio.Task[None]] = set()

    def beside(
        self, route: Route, message: pb.GenerateRequest, limits: LimitsConfig, generation: Generation
    ) -> Generation:
        """The generation as it is; where the route has a shadow, that gets a copy of the message, within the limits."""
        return generation if route.shadow is None else partial(self._shadowed, route, message, limits, generation)

    async def _shadowed(
        self,
        route: Route,
        message: pb.GenerateRequest,
        limits: LimitsConfig,
        generation: Generation,
        hand_out: HandOut,
    ) -> None:
        answer = _Answer()
        copy: asyncio.Task[None] | None = None

        async def noted(replies: list[pb.GenerateReply]) -> None:
            nonlocal copy
            for reply in replies:
                if reply.HasField("started"):
                    copy = self._begin(route, message, limits, reply.started.seed, answer)
            await answer.take(replies)
            await hand_out(replies)

        try:
            await generation(noted)
        finally:
            answer.finished.set()
            if copy is not None and not answer.complete:  # there is nothing to compare it with
                copy.cancel()

    def _begin(
        self, route: Route, message: pb.GenerateRequest, limits: LimitsConfig, seed: int, answer: _Answer
    ) -> asyncio.Task[None] | None:
        """A copy under way; None: it would be in somebody's way."""
        if route.shadow is None:
            return None
        if len(self._copies) >= MAX_COPIES or not self._dispatcher.can_spare(route.shadow):
            self._counts.shadowed(route.alias, route.shadow, ShadowEnd.DROPPED)
            return None
        copy = pb.GenerateRequest()
        copy.CopyFrom(message)
        copy.request_id += "-shadow"
        copy.sampling.seed, copy.sampling.has_seed = seed, True
        task = asyncio.create_task(self._counted(route, route.shadow, copy, limits, answer))
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)
        return task

    async def _counted(
        self, route: Route, model: str, copy: pb.GenerateRequest, limits: LimitsConfig, answer: _Answer
    ) -> None:
        end = ShadowEnd.CUT
        try:
            end = await self._run(route, model, copy, limits, answer)
        finally:
            self._counts.shadowed(route.alias, model, end)

    async def _run(
        self, route: Route, model: str, copy: pb.GenerateRequest, limits: LimitsConfig, answer: _Answer
    ) -> ShadowEnd:
        shadowed = _Answer()
        try:
            turn = Turn(SHADOW_KEY, limits, 0, is_probe=True)
            await self._dispatcher.generate(Attempt(model), copy, turn, shadowed.take)
        except RouterError as error:
            log.warning("shadow of %s on %s, request %s: %s", route.alias, model, copy.request_id, error.message)
            return ShadowEnd.FAILED
        except Exception:
            log.exception("shadow of %s on %s, request %s failed", route.alias, model, copy.request_id)
            return ShadowEnd.FAILED
        await answer.finished.wait()
        if not answer.complete:
            return ShadowEnd.CUT
        end, outcome = _compared(answer, shadowed)
        log.info("shadow of %s on %s, request %s: %s", route.alias, model, copy.request_id, outcome)
        return end


def _compared(answer: _Answer, shadowed: _Answer) -> tuple[ShadowEnd, str]:
    ours, theirs = "".join(answer.texts), "".join(shadowed.texts)
    if ours == theirs:
        return ShadowEnd.SAME, f"the same {len(ours)} characters"
    pairs = enumerate(zip(ours, theirs, strict=False))
    parted = next((index for index, (our, their) in pairs if our != their), min(len(ours), len(theirs)))
    tokens = f"{answer.num_tokens} and {shadowed.num_tokens} tokens"
    return ShadowEnd.DIFFERS, f"differs from character {parted} on, {tokens}"
