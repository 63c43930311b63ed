"""Where calls enter the worker and errors leave it: the token of every call, and the tree of errors as gRPC says it.

Made by server.py. Invariant: no call but health passes without the token, and no message of an exception that was not
raised on purpose leaves the process.
"""

import hmac
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import grpc
import psutil  # type: ignore[import-untyped]

from protos import inference_pb2 as pb
from worker.errors import ContextExceeded, InvalidRequest, NotSupported, Overloaded, Unavailable

log = logging.getLogger("worker.service")

ERROR_DETAIL_KEY = "corral-error-bin"
_TOKEN_KEY = "corral-token"  # noqa: S105 (the name of a header)
_GIB = 1 << 30
_HEALTH = "/grpc.health.v1.Health/"

_STATUS: Mapping[type[Exception], tuple[Any, grpc.StatusCode]] = {
    InvalidRequest: (pb.INVALID_REQUEST, grpc.StatusCode.INVALID_ARGUMENT),
    ContextExceeded: (pb.CONTEXT_EXCEEDED, grpc.StatusCode.INVALID_ARGUMENT),
    NotSupported: (pb.NOT_SUPPORTED, grpc.StatusCode.UNIMPLEMENTED),
    Overloaded: (pb.OVERLOADED, grpc.StatusCode.RESOURCE_EXHAUSTED),
    Unavailable: (pb.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE),
    MemoryError: (pb.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE),
}
# How grpc calls what answers a method, and makes one, by whether requests and replies are streams.
_BEHAVIOUR = {(False, False): "unary_unary", (False, True): "unary_stream", (True, True): "stream_stream"}
_MAKE: Mapping[tuple[bool, bool], Callable[..., Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}

_Behaviour = Callable[[Any, Any], Awaitable[Any]]


class Border(grpc.aio.ServerInterceptor):
    """Where calls enter and errors leave: checks the token, if there is one, and turns exceptions into statuses."""

    def __init__(self, token: str | None) -> None:
        self._token = token.encode() if token else None

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.startswith(_HEALTH):
            return handler
        kind = (bool(handler.request_streaming), bool(handler.response_streaming))
        inner, make = getattr(handler, _BEHAVIOUR[kind]), _MAKE[kind]
        admitted = self._admits(details.invocation_metadata)
        behaviour = _guarded(inner) if admitted else _unauthenticated
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    def _admits(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        if self._token is None:
            return True
        given = (str(value).encode() for key, value in metadata if key == _TOKEN_KEY)
        return any(hmac.compare_digest(token, self._token) for token in given)


async def _unauthenticated(request: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")


def _guarded(behaviour: _Behaviour) -> _Behaviour:
    async def guarded(request: Any, context: Any) -> Any:
        try:
            return await behaviour(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _refuse(context, error)

    return guarded


async def _refuse(context: Any, error: Exception) -> None:
    detail = error_detail(error)
    kind = _kind(error)
    status = _STATUS[kind][1] if kind in _STATUS else grpc.StatusCode.INTERNAL
    await context.abort(status, detail.message, ((ERROR_DETAIL_KEY, detail.SerializeToString()),))


def error_detail(error: Exception) -> pb.ErrorDetail:
    """What a client is told of an error; the log gets those that nobody meant to raise."""
    kind = _kind(error)
    if kind is MemoryError:
        taken, free = psutil.Process().memory_info().rss, psutil.virtual_memory().available
        log.error("out of memory: %.2f GiB taken, %.2f GiB free", taken / _GIB, free / _GIB, exc_info=error)
        return pb.ErrorDetail(code=_STATUS[kind][0], message="the worker is out of memory")
    if kind not in _STATUS:
        log.error("a call failed", exc_info=error)
        return pb.ErrorDetail(code=pb.INTERNAL, message="internal error of the worker")
    detail = pb.ErrorDetail(code=_STATUS[kind][0], message=str(error))
    if isinstance(error, ContextExceeded):
        detail.num_prompt_tokens, detail.context_length = error.num_prompt_tokens, error.context_length
    elif isinstance(error, Overloaded):
        detail.wait_seconds = error.wait_seconds
    return detail


def _kind(error: Exception) -> type[Exception]:
    """Its row in the table, if it has one: libraries have memory errors of their own."""
    return MemoryError if isinstance(error, MemoryError) else type(error)
