"""The gRPC server of a worker: where it listens, what it says about its health, how it ends.

worker/program.py starts it before the model is loaded, so that a supervisor can watch. Invariants: SERVING is said
only while generations are accepted, and a socket file is for this user alone.
"""

import asyncio
import logging
import os
import socket
import stat
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from worker.errors import WorkerError
from worker.rpc.access import Access, Tls
from worker.rpc.border import Border
from worker.rpc.loaded import LoadedModel
from worker.rpc.service import Inference
from worker.traces import Traces

log = logging.getLogger("worker.server")

_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_MAX_SOCKET_PATH = 107  # bytes of sun_path before its zero
_FAREWELL_SECONDS = 1.0  # for the last errors to reach their clients
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # or two workers would share a port without noticing
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
)


class ListenError(WorkerError):
    """The address cannot be listened on."""


class Server:
    """One worker's server: NOT_SERVING, then SERVING, then gone. Belongs to the event loop it was made in."""

    def __init__(self, access: Access, max_open: int, traces: Traces | None = None) -> None:
        """`access`: what every call but health needs."""
        self._access = access
        self._model: LoadedModel | None = None
        self._traces = traces or Traces()
        self._inference = Inference(max_open, self._traces)
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(interceptors=(Border(access.token),), options=_OPTIONS)
        self._inference.add_to(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._health_server: grpc.aio.Server | None = None

    async def start(self, listen: str, health_listen: str | None = None) -> str:
        """Listens on unix:PATH or HOST:PORT and returns that, a port of 0 replaced. Raises ListenError, AccessError.

        `health_listen`: HOST:PORT of a second port that tells the health, and without TLS.
        """
        await self._health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        if listen.startswith("unix:"):
            self._bind_socket(listen.removeprefix("unix:"))
        else:
            listen = _bind_port(self._server, listen, self._access.tls)
        self._access.check(listen)
        await self._server.start()
        if health_listen is not None:
            self._health_server = grpc.aio.server(options=_OPTIONS)
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._health_server)
            _bind_port(self._health_server, health_listen, None)
            await self._health_server.start()
        return listen

    async def open(self, model: LoadedModel) -> None:
        self._model = model
        self._inference.open(model)
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def drain(self, grace: float) -> None:
        """Refuses new generations, lets those open finish for `grace` seconds, fails the rest and closes."""
        await self._health.enter_graceful_shutdown()
        try:
            async with asyncio.timeout(grace):
                await self._inference.drain()
        except TimeoutError:
            log.warning("ending with requests still open after %g s", grace)
        if self._model is not None:
            await asyncio.to_thread(self._model.engine.stop)
        await self._server.stop(_FAREWELL_SECONDS)
        if self._health_server is not None:
            await self._health_server.stop(None)
        await asyncio.to_thread(self._traces.close)

    def _bind_socket(self, path: str) -> None:
        if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
            raise ListenError(f"cannot listen on unix:{path}: the path is longer than {_MAX_SOCKET_PATH} bytes")
        _remove_stale(Path(path))
        inherited = os.umask(0o177)
        try:
            _bind(self._server, f"unix:{path}", self._access.tls)
        finally:
            os.umask(inherited)


def _bind_port(server: grpc.aio.Server, listen: str, tls: Tls | None) -> str:
    host, separator, port = listen.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise ListenError(f"cannot listen on {listen}: expected unix:PATH or HOST:PORT")
    try:
        # grpc says why it cannot bind only in its own log.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except OSError as error:
        raise ListenError(f"cannot listen on {listen}: {error.strerror or error}") from None
    return f"{host}:{_bind(server, listen, tls)}"


def _bind(server: grpc.aio.Server, address: str, tls: Tls | None) -> int:
    try:
        if tls is not None:
            return int(server.add_secure_port(address, tls.credentials()))
        return int(server.add_insecure_port(address))
    except RuntimeError:
        why = ": its certificate and key are no pair" if tls is not None else ""
        raise ListenError(f"cannot listen on {address}{why}") from None


def _remove_stale(path: Path) -> None:
    """Removes a socket that nobody listens on any more."""
    if not path.parent.is_dir():
        raise ListenError(f"cannot listen on unix:{path}: the folder does not exist")
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise ListenError(f"cannot listen on unix:{path}: there is a file that is not a socket")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenError(f"cannot listen on unix:{path}: {error.strerror or error}") from None
    else:
        raise ListenError(f"cannot listen on unix:{path}: another process does")
