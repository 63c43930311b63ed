"""Who calls, and whether they may: the middleware that finds the key, and the guard on every route.

Made by app.py. The middleware puts the key and the Table of this moment into request.state; a request keeps both to its
end. Invariant: without a valid key nothing passes but the open paths, and what is compared is scope["path"], which no
header can change; a route is reached only by keys that have its scope. What goes on for long asks state.guard, its
route's, for the key by now.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from router.config import KeyConfig, Scope
from router.errors import Forbidden
from router.keys.keys import ANONYMOUS
from router.policy.table import Table

Endpoint = Callable[[Request], Awaitable[Response]]
KEY_HEADERS = (b"authorization", b"x-api-key", b"api-key")  # the first one that is there counts
_BEARER = b"bearer "


class Auth:
    """Finds the key of every request; raises Unauthorized for one without, unless its path is open."""

    def __init__(self, app: ASGIApp, open_paths: Collection[str]) -> None:
        self._app = app
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            table: Table = scope["app"].state.table
            is_anyones = table.keys.is_open or scope["path"] in self._open_paths
            key = ANONYMOUS if is_anyones else table.keys.find(_presented(scope), datetime.now(UTC))
            scope["state"].update(table=table, key=key)
        await self._app(scope, receive, send)


class Guarded:
    """An endpoint for keys with a scope; None: for everyone. Its `answer` is what a route leads to."""

    def __init__(self, endpoint: Endpoint, scope: Scope | None) -> None:
        self.scope = scope
        self._endpoint = endpoint

    async def answer(self, request: Request) -> Response:
        state: dict[str, Any] = request.scope["state"]
        self._check(state["key"])
        state["guard"] = self  # without the request, which holds the state
        return await self._endpoint(request)

    def key_by_now(self, request: Request) -> KeyConfig:
        """The request's key as the table in force has it. Raises Unauthorized, Forbidden as if it came only now."""
        table: Table = request.app.state.table
        key = table.keys.find(_presented(request.scope), datetime.now(UTC))
        self._check(key)
        return key

    def check_also(self, request: Request, scope: Scope) -> None:
        """Raises Forbidden if the request's key has not a scope that a part of what it asks for needs."""
        _check_scope(request.scope["state"]["key"], scope)

    def _check(self, key: KeyConfig) -> None:
        if self.scope is not None:
            _check_scope(key, self.scope)


def _check_scope(key: KeyConfig, scope: Scope) -> None:
    """Raises Forbidden if the key has not the scope."""
    if scope not in key.scopes:
        raise Forbidden(f"key '{key.name}' may not do this: it has no scope '{scope}'")


def _presented(scope: Connection) -> bytes:
    """The key of a request: Authorization, with or without "Bearer", else x-api-key, else api-key."""
    headers: Mapping[bytes, bytes] = scope["state"]["headers"]
    key = next((headers[name] for name in KEY_HEADERS if headers.get(name)), b"")
    if key[: len(_BEARER)].lower() == _BEARER:
        key = key[len(_BEARER) :]
    return key.strip()
