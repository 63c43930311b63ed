"""The border of the application: the envelope of an answer, the size of bodies, exceptions that become answers.

Layers of app.py. Invariant: whatever goes wrong inside, the client gets a JSON envelope without a traceback, or, once
its answer has begun, a connection that ends without the mark of completeness.
"""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence

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
from router.http.answer import Answer, Header

log = logging.getLogger("corral.request")

_VALID_ID = re.compile(rb"[A-Za-z0-9-]{1,64}")


class Envelope:
    """Opens the Answer of a request and names both: by the request's own x-request-id if that is harmless.

    Puts the request's headers by their names beside it, for all who look one up.

    While the gateway drains it lets connections go, one by one, each after the answer it carries: a reverse proxy that
    keeps connections would otherwise send its next request into one that is being closed.
    """

    def __init__(self, app: ASGIApp, draining: Callable[[], bool]) -> None:
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))  # the first of several counts
        given = headers.get(b"x-request-id", b"")
        identity = given if _VALID_ID.fullmatch(given) else os.urandom(16).hex().encode()
        answer = Answer(send, self._farewell)
        answer.headers.append((b"x-request-id", identity))
        scope.setdefault("state", {}).update(request_id=identity.decode(), answer=answer, headers=headers)
        try:
            await self._app(scope, receive, answer.send)
        finally:
            del scope["state"]["answer"]  # it refers to the server's own side of the request, which refers to the scope

    def _farewell(self) -> Sequence[Header]:
        return ((b"connection", b"close"),) if self._draining() else ()


class ErrorBoundary:
    """Turns exceptions into answers; a fault of ours goes to the log, with its request's id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer: Answer = scope["state"]["answer"]
        try:
            await self._app(scope, receive, send)
        except Exception as raised:
            error = raised if isinstance(raised, RouterError) else InternalError()
            if error is not raised:
                log.exception("request %s failed", scope["state"]["request_id"])
            if answer.has_begun:
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
        declared = scope["state"]["headers"].get(b"content-length", b"0")
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
