"""Lets web pages of other origins call the gateway, if the configuration says so.

Made by app.py. Every OPTIONS request ends here with an empty 200, as llama-server answers it.
Invariant: "*" is never sent together with credentials, and an origin that is not listed is never named.
"""

import re
from collections.abc import Iterator, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from router.config import CorsConfig
from router.http.answer import Answer, Header

MAX_AGE_SECONDS = 600
LOCALHOST = "localhost"  # in a list of origins: any of this machine's own
_LOCAL = re.compile(r"https?://(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?")


class Cors:
    """Adds the Access-Control headers and answers OPTIONS."""

    def __init__(self, app: ASGIApp, config: CorsConfig) -> None:
        self._app = app
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        requested: Mapping[bytes, bytes] = scope["state"]["headers"]
        headers = list(self._headers(requested.get(b"origin")))
        if scope["method"] == "OPTIONS":
            headers += self._preflight(requested) if headers else []
            await _empty(send, headers)
            return
        answer: Answer = scope["state"]["answer"]
        answer.headers += headers
        await self._app(scope, receive, send)

    def _headers(self, origin: bytes | None) -> Iterator[Header]:
        config = self._config
        if not config.origins:
            return
        if config.any_origin:
            yield b"access-control-allow-origin", b"*"
        else:
            yield b"vary", b"Origin"
            if origin is None or not self._is_let_in(origin.decode("latin-1")):
                return
            yield b"access-control-allow-origin", origin
            if config.credentials:
                yield b"access-control-allow-credentials", b"true"
        yield b"access-control-expose-headers", b"x-request-id"

    def _is_let_in(self, origin: str) -> bool:
        origins = self._config.origins
        return origin in origins or (LOCALHOST in origins and _LOCAL.fullmatch(origin) is not None)

    def _preflight(self, requested: Mapping[bytes, bytes]) -> Iterator[Header]:
        """What may be asked. A "*" does not cover Authorization in browsers, so the headers asked for are named."""
        config = self._config
        asked = requested.get(b"access-control-request-headers")
        allowed = asked if config.headers == "*" and asked else config.headers.encode("latin-1")
        yield b"access-control-allow-methods", config.methods.encode("latin-1")
        yield b"access-control-allow-headers", allowed
        yield b"access-control-max-age", str(MAX_AGE_SECONDS).encode()


async def _empty(send: Send, headers: list[Header]) -> None:
    start = [(b"content-type", b"text/html"), (b"content-length", b"0"), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": start})
    await send({"type": "http.response.body", "body": b""})
