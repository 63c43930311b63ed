"""A request's place in the trace of its client: taken from W3C's headers, told to the log and to workers.

Begun by access.py for each request; call.py and dispatch.py mark the steps. Here marking does nothing; spans.py, if
traces are exported, overrides it. Invariant: without a client's header and without a collector a worker is told
nothing, and nothing of OpenTelemetry is imported.
"""

import importlib
import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from protos import inference_pb2 as pb

_PARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_STATE = re.compile(rb"[\x20-\x7e]{1,512}")
SPANS = "router.observe.spans"  # by name, since only corral[otel] can import it
_VERSION = b"00"  # the only one so far; later ones may append fields

# OpenTelemetry's own names, by which workers are told, too.
OTLP_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

log = logging.getLogger("corral")


class Trace:
    """Where a request stands."""

    __slots__ = ("parent", "state", "trace_id")
    is_recorded = False  # whether `end` wants to be told

    def __init__(self, trace_id: str = "", parent: str = "", state: str = "") -> None:
        self.trace_id = trace_id  # 32 hexadecimal digits; empty: of no trace
        self.parent = parent  # that places whatever follows under it, as W3C has it
        self.state = state

    def attempt(self, replica: str, request: pb.GenerateRequest) -> AbstractContextManager[None]:
        """Surrounds the call of a replica, and tells it in the request where that stands."""
        request.traceparent, request.tracestate = self.parent, self.state
        return nullcontext()

    def waited(self, name: str, seconds: float) -> None:
        """A wait is over."""

    def end(self, event: Mapping[str, Any]) -> None:
        """The request has ended; what the log says of it."""


UNTRACED = Trace()


class Traces:
    """Where traces of requests begin; nothing is exported."""

    def begin(self, method: str, headers: Iterable[tuple[bytes, bytes]]) -> Trace:
        """The trace of a request with these headers."""
        return given_trace(headers)

    def close(self) -> None:
        """Exports what is left, for a bounded time."""


def exporting(endpoint: str | None, environment: Mapping[str, str]) -> Traces:
    """Traces for the collector at this address; None: for none.

    Without corral[otel] the log says so, and clients' traces are passed on only.
    """
    if endpoint is None or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return Traces()
    try:
        spans = importlib.import_module(SPANS)
    except ModuleNotFoundError as error:
        log.warning("no traces for %s: %s is missing (pip install 'corral[otel]')", endpoint, error.name)
        return Traces()
    traces: Traces = spans.exported(environment)
    return traces


def are_exported(environment: Mapping[str, str]) -> bool:
    """Whether a worker with this environment exports traces."""
    return any(map(environment.get, OTLP_VARIABLES)) and environment.get("OTEL_TRACES_EXPORTER") != "none"


def given_trace(headers: Iterable[tuple[bytes, bytes]]) -> Trace:
    """What a client says of its trace; UNTRACED if it says nothing, or nothing that is valid.

    See W3C Trace Context, 3.2 and 3.3.
    """
    parents, states = [], []
    for name, value in headers:
        if name == b"traceparent":
            parents.append(value)
        elif name == b"tracestate":
            states.append(value)
    found = _PARENT.fullmatch(parents[0]) if len(parents) == 1 else None
    if found is None or (found[1] == _VERSION and found[3]) or not _printable(parents[0]):
        return UNTRACED
    state = b",".join(states)
    return Trace(found[2].decode(), parents[0].decode(), state.decode() if _STATE.fullmatch(state) else "")


def _printable(value: bytes) -> bool:
    """Whether it can be sent on."""
    return _STATE.fullmatch(value) is not None
