"""What goes wrong with a worker, as the gateway's own errors: the one place that reads statuses and ErrorDetails.

Called by replica.py and exchange.py. Invariant: a worker that said what went wrong is believed; one that could not is
lost, and with it whether the request had reached it.
"""

import math
from collections.abc import Callable, Mapping

import grpc

from protos import inference_pb2 as pb
from router.errors import (
    ContextExceeded,
    InternalError,
    InvalidRequest,
    NotSupported,
    Overloaded,
    RouterError,
    Unavailable,
    WorkerFailed,
    WorkerLost,
)

ERROR_DETAIL_KEY = "corral-error-bin"
# The connection, not the worker, ended the call. A killed worker's stream may be reset, which gRPC calls INTERNAL;
# a worker that means it sends its own words along.
_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL)

_FROM_CODE: Mapping[int, Callable[[pb.ErrorDetail], RouterError]] = {
    pb.INVALID_REQUEST: lambda detail: InvalidRequest(detail.message),
    pb.CONTEXT_EXCEEDED: lambda detail: ContextExceeded(
        detail.message, detail.num_prompt_tokens, detail.context_length
    ),
    pb.NOT_SUPPORTED: lambda detail: NotSupported(detail.message),
    pb.OVERLOADED: lambda detail: Overloaded(detail.message, max(1, math.ceil(detail.wait_seconds))),
    pb.UNAVAILABLE: lambda detail: Unavailable(detail.message),
    pb.INTERNAL: lambda _: InternalError(),
}


def refusal(detail: pb.ErrorDetail) -> RouterError:
    """The worker's own words."""
    make = _FROM_CODE.get(detail.code)
    return make(detail) if make else InternalError()


def lost(model: str, *, had_request: bool) -> WorkerLost:
    """The connection broke under a request."""
    return WorkerLost(f"the worker of '{model}' stopped while it answered", had_request=had_request)


def failure(model: str, error: grpc.aio.AioRpcError, *, had_request: bool = True) -> RouterError:
    """What a failed call means: the worker's own words if it sent some; else the connection broke under it."""
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_DETAIL_KEY and isinstance(value, bytes):
            return refusal(pb.ErrorDetail.FromString(value))
    if error.code() in _BROKEN:
        return lost(model, had_request=had_request)
    why = ": it asks for another token" if error.code() is grpc.StatusCode.UNAUTHENTICATED else ""
    return WorkerFailed(f"the worker of '{model}' failed ({error.code().name}){why}")
