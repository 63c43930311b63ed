"""Refuses web pages that reach this gateway under a name of their own (DNS rebinding).

A page of any site can make its own name lead to 127.0.0.1 and then call a server that asks for no key. It cannot make
its name an address or localhost, nor reach a unix socket. Made by app.py if settings.py says which names are allowed.
Invariant: an allowed name is compared whole, never as a part.
"""

from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from router.errors import Forbidden


class HostGuard:
    """Raises Forbidden for a Host header that names neither an address, nor localhost, nor an allowed name."""

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        self._app = app
        self._allowed = frozenset(name.lower().rstrip(".") for name in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _over_unix_socket(scope):
            for name, value in scope["headers"]:
                if name == b"host" and not self._is_ours(_host(value.decode("latin-1"))):
                    raise Forbidden(f"Host {value.decode('latin-1')[:100]!r} is not this server's (--allowed-hosts)")
        await self._app(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        return host in self._allowed or host == "localhost" or host.endswith(".localhost") or _is_address(host)


def _over_unix_socket(scope: Scope) -> bool:
    server = scope.get("server")
    return server is not None and server[1] is None


def _host(value: str) -> str:
    """Without its port, in small letters."""
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.partition(":")[0].lower().rstrip(".")


@lru_cache(1024)
def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
