"""The gateway in one page: a name becomes a route, a route a ready replica, a replica's replies the answer.

Called by router/api, which knows the wire formats; knows neither HTTP nor processes itself.
Invariant: a request goes to a second worker only while nothing of the first one's answer has been handed out.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from protos import inference_pb2 as pb
from router.aliases import AliasTable, Route
from router.errors import WorkerLost
from router.replica import Replica
from router.supervisor import Fleet, ModelStatus

_Reply = TypeVar("_Reply")


class Dispatcher:
    """Resolves, waits for a replica, calls it."""

    def __init__(self, aliases: AliasTable, fleet: Fleet) -> None:
        self._aliases = aliases
        self._fleet = fleet

    def resolve(self, model: str | None) -> Route:
        """The route of a model name; no name means the only model. Raises InvalidRequest, ModelNotFound."""
        return self._aliases.resolve(model)

    async def generate(self, route: Route, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateReply, None]:
        """Started, any number of Delta, Finished. Closing the generator cancels the request. Raises RouterError."""
        replica = await self._fleet.ready(route.model)
        begun = False
        try:
            async with aclosing(replica.generate(request)) as replies:
                async for reply in replies:
                    begun = True
                    yield reply
            return
        except WorkerLost:
            if begun:
                raise
        replica = await self._fleet.ready(route.model, lost=replica)
        async with aclosing(replica.generate(request)) as replies:
            async for reply in replies:
                yield reply

    async def tokenize(self, route: Route, request: pb.TokenizeRequest) -> pb.TokenizeReply:
        return await self._ask(route, lambda replica: replica.tokenize(request))

    async def detokenize(self, route: Route, request: pb.DetokenizeRequest) -> pb.DetokenizeReply:
        return await self._ask(route, lambda replica: replica.detokenize(request))

    async def apply_template(self, route: Route, request: pb.ApplyTemplateRequest) -> pb.ApplyTemplateReply:
        return await self._ask(route, lambda replica: replica.apply_template(request))

    async def describe(self, route: Route, request: pb.DescribeRequest) -> pb.DescribeReply:
        return await self._ask(route, lambda replica: replica.describe(request))

    async def stats(self, route: Route, request: pb.StatsRequest) -> pb.StatsReply:
        return await self._ask(route, lambda replica: replica.stats(request))

    def models(self) -> Sequence[ModelStatus]:
        """What is known of every configured model, in the order of configuration."""
        return self._fleet.models()

    def check_health(self) -> None:
        """Returns if the gateway can answer; raises ModelLoading or Unavailable if not."""
        self._fleet.check_health()

    def check_ready(self) -> None:
        """As check_health, and also raises Unavailable when the gateway is draining."""
        self._fleet.check_ready()

    async def _ask(self, route: Route, call: Callable[[Replica], Awaitable[_Reply]]) -> _Reply:
        """One reply; a worker that died under the question is asked again once it is back."""
        replica = await self._fleet.ready(route.model)
        try:
            return await call(replica)
        except WorkerLost:
            return await call(await self._fleet.ready(route.model, lost=replica))
