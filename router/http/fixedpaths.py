"""The way to an endpoint whose path has no parameters: one look-up, where the framework's router tries row after row.

The innermost layer of app.py, made from the same rows as the routes behind it, which serve every other request: paths
with parameters, other methods and what is not found. Invariant: an endpoint answers the same on both ways.
"""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Answer = Callable[[Request], Awaitable[Response]]


class FixedPaths:
    """Answers by (method, path)."""

    def __init__(self, app: ASGIApp, answers: Mapping[tuple[str, str], Answer]) -> None:
        self._app = app
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answers.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if answer is None:
            await self._app(scope, receive, send)
            return
        response = await answer(Request(scope, receive, send))
        await response(scope, receive, send)
