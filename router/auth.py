"""Who may call: API keys, and the middleware that asks for one.

Made by app.py. Keys are kept as sha256 digests only. Invariant: without a valid key nothing passes but OPEN_PATHS,
and what is compared is scope["path"], which no header can change.
"""

import hashlib
import hmac
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from router.errors import Unauthorized

OPEN_PATHS = frozenset({"/health", "/v1/health", "/live", "/ready"})
_BEARER = b"bearer "


def key_digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class Keys:
    """The digests of all valid keys. None at all: everyone may call."""

    def __init__(self, digests: Collection[bytes]) -> None:
        self._digests = tuple(digests)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admits(self, presented: bytes) -> bool:
        """Whether this is a valid key; the time it takes does not depend on which, or how nearly."""
        digest = key_digest(presented)
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found or not self._digests


class Auth:
    """Raises Unauthorized for every request without a valid key."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS and not self._keys.admits(_presented(scope)):
            raise Unauthorized
        await self._app(scope, receive, send)


def _presented(scope: Scope) -> bytes:
    """The key of a request: Authorization, with or without "Bearer", else X-Api-Key."""
    headers = dict(reversed(scope["headers"]))  # the first of several counts
    key: bytes = headers.get(b"authorization") or headers.get(b"x-api-key") or b""
    if key[: len(_BEARER)].lower() == _BEARER:
        key = key[len(_BEARER) :]
    return key.strip()
