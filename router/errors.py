"""Everything that can go wrong in the gateway, as types, and the one function that renders them for HTTP.

    CommandError                     a command cannot go on; it ends with one line and an exit code
    RouterError                      a request failed; everything else goes on
    ├── InvalidRequest      400      it can never succeed as written
    │   └── ContextExceeded 400      its prompt does not fit the context
    ├── Unauthorized        401      no valid key
    ├── Forbidden           403      a valid key without the right to do it, or a page of another site
    ├── NotFound            404      no such path
    ├── ModelNotFound       404      no such model
    ├── MethodNotAllowed    405
    ├── BodyTooLarge        413
    ├── HeadTooLarge        431      its line and headers
    ├── Overloaded          429      the waiting line is full; says when to come again
    │   └── QueueTimeout    429      or too slow
    ├── RateLimited         429      the key has used up a limit of its own; says when to come again
    ├── InternalError       500      a fault of ours; the cause is in the log only
    ├── WorkerFailed        500      the worker's answer is not complete
    │   └── WorkerLost      500      because the connection to it broke: it died
    ├── RequestPoisonous    500      workers died while they computed it; it is not tried again
    ├── ModelFailed         500      the model cannot be loaded; trying again is of no use
    ├── NotRemovable        500      a model that is configured
    ├── NotSupported        501      this model or configuration cannot do it
    └── Unavailable         503      not now; says when to come again
        └── ModelLoading    503      at the start, as llama-server says it

Raised by everyone in router/; rendered by app.py and, inside a stream that has begun, by router/api.
Invariant: a client sees a RouterError's message and nothing else, never a traceback.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import orjson

JSON_CONTENT_TYPE = "application/json; charset=utf-8"
_NEVER_RETRY = {"x-should-retry": "false"}


class CommandError(Exception):
    """A command cannot go on. The message is one line for the user; the code becomes the exit status.

    `file` is what is wrong or missing, where it is a file: once that has changed, it may be worth another try.
    """

    def __init__(self, message: str, exit_code: int = 1, *, file: Path | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.file = file


class RouterError(Exception):
    """Base of all errors a client may see. `headers` go with the answer when it has not begun."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers: dict[str, str] = dict(headers or {})

    def content(self) -> dict[str, Any]:
        """What stands under "error", in the order llama-server writes it."""
        return {"code": self.status, "message": self.message, "type": self.type}


class _MessageFirst(RouterError):
    """llama-server writes three of its bodies as literals, in another order."""

    def content(self) -> dict[str, Any]:
        return {"message": self.message, "type": self.type, "code": self.status}


class InvalidRequest(RouterError):
    """The request can never succeed as written."""

    status = 400
    type = "invalid_request_error"


class ContextExceeded(InvalidRequest):
    """The prompt does not fit the context."""

    type = "exceed_context_size_error"

    def __init__(self, message: str, num_prompt_tokens: int, context_length: int) -> None:
        super().__init__(message)
        self.num_prompt_tokens = num_prompt_tokens
        self.context_length = context_length

    def content(self) -> dict[str, Any]:
        return {**super().content(), "n_prompt_tokens": self.num_prompt_tokens, "n_ctx": self.context_length}


class Unauthorized(_MessageFirst):
    """No key, or a wrong one."""

    status = 401
    type = "authentication_error"

    def __init__(self, message: str = "Invalid API Key") -> None:
        super().__init__(message)


class Forbidden(_MessageFirst):
    """Known who asks, but not allowed."""

    status = 403
    type = "permission_error"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers=_NEVER_RETRY)


class NotFound(_MessageFirst):
    """No such path."""

    status = 404
    type = "not_found_error"

    def __init__(self) -> None:
        super().__init__("File Not Found")


class ModelNotFound(RouterError):
    """No such model; names the nearest ones."""

    status = 404
    type = "not_found_error"

    def __init__(self, name: str, nearest: Sequence[str]) -> None:
        guess = f"; did you mean {_either(nearest)}?" if nearest else ""
        super().__init__(f"model {_quoted(name)} not found{guess} (GET /v1/models lists the models)")
        self.name = name
        self.nearest = tuple(nearest)


class MethodNotAllowed(RouterError):
    """The path is known, but not with this method."""

    status = 405
    type = "invalid_request_error"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"Method Not Allowed (allowed: {allowed})", headers={"Allow": allowed})


class BodyTooLarge(RouterError):
    """The request body exceeds the limit."""

    status = 413
    type = "invalid_request_error"

    def __init__(self, limit: int) -> None:
        super().__init__(f"request body is larger than {limit} bytes", headers={"Connection": "close"})


class HeadTooLarge(RouterError):
    """The request's line and headers exceed the limit."""

    status = 431
    type = "invalid_request_error"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request's line and headers are larger than {limit} bytes")


class Overloaded(RouterError):
    """The waiting line is full."""

    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, retry_after: int = 1, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, headers={"Retry-After": str(max(retry_after, 1)), **(headers or {})})


class QueueTimeout(Overloaded):
    """The waiting line was too slow."""


class RateLimited(RouterError):
    """A key has used up one of its limits. `retry_after` is in seconds."""

    status = 429
    type = "rate_limit_error"

    def __init__(self, key: str, limit: str, retry_after: float, headers: Mapping[str, str]) -> None:
        waits = {
            "Retry-After": str(max(math.ceil(retry_after), 1)),
            "retry-after-ms": str(math.ceil(retry_after * 1000)),
        }
        super().__init__(
            f"key {_quoted(key)} has reached its limit of {limit}; try again in {retry_after:.3g} s",
            headers={**waits, **headers},
        )


class InternalError(RouterError):
    """A fault of ours; the log has its cause."""

    def __init__(self) -> None:
        super().__init__("internal error", headers=_NEVER_RETRY)


class WorkerFailed(RouterError):
    """The worker cut its answer short: what the client has is not complete."""

    code: ClassVar[str] = "worker_crashed"

    def content(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "type": self.type}


class WorkerLost(WorkerFailed):
    """The connection to the worker broke. Another one may go on with the request."""

    def __init__(self, message: str, *, had_request: bool = True) -> None:
        super().__init__(message)
        self.had_request = had_request  # it had reached the worker


class RequestPoisonous(RouterError):
    """Several workers died while they computed this request."""

    code: ClassVar[str] = "request_poisonous"

    def __init__(self, num_crashes: int) -> None:
        super().__init__(
            f"{num_crashes} workers stopped while they computed this request; it is not tried again",
            headers=_NEVER_RETRY,
        )

    def content(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "type": self.type}


class ModelFailed(RouterError):
    """The model cannot be loaded, or its worker has crashed too often."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"model {_quoted(name)} failed: {reason}", headers=_NEVER_RETRY)


class NotRemovable(RouterError):
    """A model that does not go by a request. The status is llama-server's."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"model name={_shown(name)} {why}", headers=_NEVER_RETRY)


class NotSupported(RouterError):
    """This model or this start-up configuration cannot do what was asked."""

    status = 501
    type = "not_supported_error"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers=_NEVER_RETRY)


class Unavailable(RouterError):
    """Not now, but soon."""

    status = 503
    type = "unavailable_error"

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message, headers={"Retry-After": str(retry_after)})


class ModelLoading(Unavailable, _MessageFirst):
    """The model is being loaded for the first time."""

    def __init__(self) -> None:
        super().__init__("Loading model")

    def content(self) -> dict[str, Any]:
        return _MessageFirst.content(self)


def error_body(error: RouterError) -> bytes:
    """The JSON envelope of an error, compact."""
    return orjson.dumps({"error": error.content()})


def _quoted(name: str) -> str:
    """A name from a client, fit for a one-line message."""
    return f"'{_shown(name)}'"


def _shown(name: str) -> str:
    return name if len(name) <= 100 else name[:100] + "…"


def _either(names: Iterable[str]) -> str:
    return " or ".join(f"'{name}'" for name in names)
