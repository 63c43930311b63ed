"""A generation's place in the trace of its request, which the gateway tells.

Begun and ended by exchange.py. Here that does nothing; spans.py, if traces are exported, overrides it. Invariant: where
no collector is named, nothing of OpenTelemetry is imported.
"""

import importlib
import logging
from collections.abc import Mapping

from worker.generation import Finished

SPANS = "worker.spans"  # by name, since only corral[otel] can import it
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

log = logging.getLogger("worker.traces")


class Trace:
    """One generation's."""

    def ended(self, last: Finished) -> None:
        """It has ended well, with this event."""

    def failed(self, error: Exception) -> None:
        """It has ended with this error."""

    def close(self) -> None:
        """Nothing more will happen to it; without an end, its client has left."""


UNTRACED = Trace()


class Traces:
    """Of all generations; nothing is exported."""

    def begin(self, parent: str, state: str) -> Trace:
        """A generation begins under this traceparent, with this tracestate. See W3C Trace Context."""
        return UNTRACED

    def close(self) -> None:
        """Exports what is left, for a bounded time."""


def exporting(environment: Mapping[str, str]) -> Traces:
    """Traces for the collector that OpenTelemetry's variables name, or none. Without corral[otel] the log says so."""
    if not any(map(environment.get, _ENDPOINTS)) or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return Traces()
    try:
        spans = importlib.import_module(SPANS)
    except ModuleNotFoundError as error:
        log.warning("no traces: %s is missing (pip install 'corral[otel]')", error.name)
        return Traces()
    traces: Traces = spans.exported(environment)
    return traces
