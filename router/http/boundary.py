"""The border of the application: request ids, the size of bodies, exceptions that become answers, and the farewell.

Layers of app.py. Invariant: whatever goes wrong inside, the client gets a JSON envelope without a traceback, or, once
its answer has begun, a connection that ends without the mark of completeness.
"""

import logging
import re
import secrets
from collections.abc import Callable, Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.errors import (
    JSON_CONTENT_TYPE,
    BodyTooLarge,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RouterError,
    error_body,
)

log = logging.getLogger("corral.request")

_VALID_ID = re.compile(rb"[A-Za-z0-9-]{1,64}")


class RequestId:
    """Names a request, in scope["state"] and in the answer: by its own x-request-id if that is harmless."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        identity = given if _VALID_ID.fullmatch(given) else secrets.token_hex(16).encode()
        scope.setdefault("state", {})["request_id"] = identity.decode()

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", identity)]
            await send(message)

        await self._app(scope, receive, named)


class Farewell:
    """Lets connections go, one by one, while the gateway drains: each is closed after the answer it carries.

    A reverse proxy that keeps connections would otherwise send its next request into one that is being closed.
    """

    def __init__(self, app: ASGIApp, draining: Callable[[], bool]) -> None:
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def parting(message: Message) -> None:
            if message["type"] == "http.response.start" and self._draining():
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, parting)


class ErrorBoundary:
    """Turns exceptions into answers; a fault of ours goes to the log, with its request's id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as raised:
            error = raised if isinstance(raised, RouterError) else InternalError()
            if error is not raised:
                log.exception("request %s failed", scope["state"]["request_id"])
            if begun:
                raise BrokenAnswer from raised
            await error_response(error)(scope, receive, send)


class BrokenAnswer(Exception):
    """An answer that has begun cannot be completed; the server closes the connection."""


class BodyLimit:
    """Raises BodyTooLarge as soon as a body is known to exceed the limit."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._limit:
            raise BodyTooLarge(self._limit)
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._limit:
                raise BodyTooLarge(self._limit)
            return message

        await self._app(scope, counted, send)


def error_response(error: RouterError) -> Response:
    """The whole answer for an error."""
    return Response(error_body(error), error.status, error.headers, JSON_CONTENT_TYPE)


async def reject_route(request: Request, raised: Exception) -> Response:
    """What the router of paths has to say, in our envelope."""
    assert isinstance(raised, HTTPException)
    headers: Mapping[str, str] = raised.headers or {}
    match raised.status_code:
        case 404:
            return error_response(NotFound())
        case 405:
            return error_response(MethodNotAllowed(headers.get("Allow", "")))
        case _:
            return error_response(InvalidRequest(str(raised.detail)))
