"""The sockets the gateway listens on, bound before anything else is started.

Called by serve.py. Invariant: if one address cannot be had, none is kept.
"""

import errno
import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from router.config import GatewayConfig
from router.errors import CommandError
from router.options.settings import UNIX_SUFFIX

BACKLOG = 2048


def bind(config: GatewayConfig) -> list[socket.socket]:
    """A socket per host; it listens, unless that is to wait for the models. Raises CommandError."""
    with ExitStack() as bound:
        sockets = [bound.enter_context(_bind_one(host, config.port)) for host in config.hosts]
        if not config.listen_when_ready:
            for each in sockets:
                each.listen(BACKLOG)
        bound.pop_all()
        return sockets


def address(listener: socket.socket, secure: bool) -> str:
    """What to call it, as a URL or a path."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if secure else 'http'}://{shown}:{port}"


def _bind_one(host: str, port: int) -> socket.socket:
    try:
        if host.endswith(UNIX_SUFFIX):
            return _bind_unix(host)
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return _bind_port(family, place[:2])
    except socket.gaierror:
        raise CommandError(f"--host {host}: no such address") from None
    except OSError as error:
        raise CommandError(_reason(host, port, error)) from None


def _bind_port(family: int, place: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(place)
    except OSError:
        listener.close()
        raise
    return listener


def _reason(host: str, port: int, error: OSError) -> str:
    where = host if host.endswith(UNIX_SUFFIX) else f"port {port} on {host}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use; choose another with --port" if where != host else f"{where} is in use"
    return f"cannot listen on {where}: {os.strerror(error.errno) if error.errno else error}"


def _bind_unix(path: str) -> socket.socket:
    """Takes over a socket file that nobody listens on any more."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if Path(path).exists() and stat.S_ISSOCK(os.stat(path).st_mode) and not _answers(path):
            os.unlink(path)
        listener.bind(path)
    except OSError:
        listener.close()
        raise
    return listener


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        return caller.connect_ex(path) == 0
