"""The end of every HTTP request as one event of the log and one count: what was asked, who served it, how long it took.

A layer of app.py, inside the one that renders errors, so that it sees them as they are. Invariant: nothing a client
wrote is logged but the id it may choose, which boundary.py has checked; no prompt, no answer, no key.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from router.call import Call
from router.config import KeyConfig
from router.errors import Forbidden, Overloaded, QueueTimeout, RateLimited, RouterError, Unauthorized
from router.http.answer import Answer
from router.observe.detours import Refusal
from router.observe.metrics import Metrics
from router.observe.traces import UNTRACED, Trace, Traces

UNKNOWN = "_unknown"  # the route of a path that is not served
CLIENT_LEFT = "ClientLeft"  # the error of an answer that was not complete when its client went
CUT = 499  # the status of an answer whose client left before it began
QUIET = frozenset({"/health", "/v1/health", "/live", "/ready", "/metrics"})  # what probes ask all the time
_REFUSALS: Sequence[tuple[type[RouterError], Refusal]] = (
    (QueueTimeout, Refusal.QUEUE_TIMEOUT),
    (Overloaded, Refusal.QUEUE_FULL),
    (RateLimited, Refusal.LIMITS),
    (Forbidden, Refusal.RIGHTS),
    (Unauthorized, Refusal.KEY),
)

log = logging.getLogger("corral.access")


class Access:
    """Counts and logs requests. `paths` are those of the route table."""

    def __init__(self, app: ASGIApp, metrics: Metrics, traces: Traces, paths: Sequence[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._traces = traces
        self._fixed = frozenset(path for path in paths if "{" not in path)
        self._open_ended = [(path.partition("{")[0], path) for path in paths if "{" in path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer: Answer = scope["state"]["answer"]
        failure: Exception | None = None
        is_traced = scope["path"] not in QUIET
        scope["state"]["trace"] = self._traces.begin(scope["method"], scope["headers"]) if is_traced else UNTRACED
        began = time.perf_counter()
        self._metrics.num_in_flight += 1
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            failure = error
            self._count_refusal(error, scope["state"].get("call"))
            raise
        finally:
            self._metrics.num_in_flight -= 1
            self._ended(scope, answer, failure, time.perf_counter() - began)

    def _ended(self, scope: Scope, answer: Answer, failure: Exception | None, seconds: float) -> None:
        route = self._route(scope["path"])
        call: Call | None = scope["state"].get("call")
        status = _status(answer, failure)
        self._metrics.request(route, status, call.route.model if call else "", seconds)
        level = logging.DEBUG if route in QUIET else logging.INFO
        trace: Trace = scope["state"]["trace"]
        if log.isEnabledFor(level) or trace.is_recorded:
            event = _event(scope, route, status, seconds, call)
            if error := _error(answer, failure, event):
                event["error"] = error
            trace.end(event)
            log.log(level, "request", extra={"fields": event})

    def _count_refusal(self, error: Exception, call: Call | None) -> None:
        reason = next((reason for kind, reason in _REFUSALS if isinstance(error, kind)), None)
        if reason is not None:
            self._metrics.detours.refused(reason, call.route.model if call else "")

    def _route(self, path: str) -> str:
        """The row of the route table a path belongs to."""
        if path in self._fixed:
            return path
        return next((row for prefix, row in self._open_ended if path.startswith(prefix)), UNKNOWN)


def _status(answer: Answer, failure: Exception | None) -> int:
    """An exception will become the answer, unless that has begun."""
    if answer.status is not None:
        return answer.status
    if failure is None:
        return CUT
    return failure.status if isinstance(failure, RouterError) else 500


def _error(answer: Answer, failure: Exception | None, event: Mapping[str, Any]) -> str:
    """The kind of what went wrong; empty: nothing."""
    if failure is not None:
        return type(failure).__name__
    return event.get("error") or ("" if answer.is_complete else CLIENT_LEFT)


def _event(scope: Scope, route: str, status: int, seconds: float, call: Call | None) -> dict[str, Any]:
    key: KeyConfig | None = scope["state"].get("key")
    event: dict[str, Any] = {
        "request_id": scope["state"]["request_id"],
        "method": scope["method"] if scope["method"].isalpha() else UNKNOWN,
        "route": route,
        "status": status,
        "ms": round(seconds * 1000, 3),
    }
    trace: Trace = scope["state"]["trace"]
    if trace.trace_id:
        event["trace_id"] = trace.trace_id
    if key is not None:
        event["key"] = key.name
    if call is not None:
        event |= call.facts()
    return event
