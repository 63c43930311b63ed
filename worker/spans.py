"""Spans of generations for OpenTelemetry: each one's wait in the engine's line, its prompt, its answer.

Imported by traces.py, only when traces are exported, for it needs `corral[otel]`. The parts are made at the end, from
the times that the engine has measured anyway. Invariant: nothing of prompt or answer but their lengths is in a span.
"""

import importlib
import threading
import time
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from worker.errors import WorkerError
from worker.generation import Finished
from worker.traces import Trace, Traces

SERVICE = "corral-worker"  # unless OpenTelemetry's variables have another name
CLOSE_SECONDS = 1.0  # for what is not exported yet
_PROPAGATOR = TraceContextTextMapPropagator()
_EXPORTERS: Mapping[str, str] = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}
_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
_TRACES_PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"


def exported(environment: Mapping[str, str]) -> Traces:
    """Sends spans to the collector that OpenTelemetry's variables name. Raises WorkerError."""
    protocol = environment.get(_TRACES_PROTOCOL) or environment.get(_PROTOCOL) or next(iter(_EXPORTERS))
    if protocol not in _EXPORTERS:
        raise WorkerError(f"{_PROTOCOL} must be one of {', '.join(_EXPORTERS)}, but is '{protocol}'")
    exporter = importlib.import_module(_EXPORTERS[protocol]).OTLPSpanExporter()
    named = Resource.create({"service.name": SERVICE}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return SpanTraces(provider)


class SpanTraces(Traces):
    """A span for each generation, under the gateway's."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(SERVICE)

    def begin(self, parent: str, state: str) -> Trace:
        context = _PROPAGATOR.extract({"traceparent": parent, "tracestate": state}, Context())
        return SpanTrace(self._tracer, self._tracer.start_span("generate", context, SpanKind.SERVER))

    def close(self) -> None:
        closing = threading.Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


class SpanTrace(Trace):
    """A generation's span, which is open."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span

    def ended(self, last: Finished) -> None:
        """Its parts, one behind the other, end now."""
        decoded = time.time_ns()
        computed = decoded - _nanoseconds(last.predicted_seconds)
        begun = computed - _nanoseconds(last.prompt_seconds)
        self._part("queue", begun - _nanoseconds(last.queued_seconds), begun)
        self._part("prompt", begun, computed)
        self._part("decode", computed, decoded)
        self._span.set_attributes(
            {
                "gen_ai.usage.input_tokens": last.num_prompt_tokens,
                "gen_ai.usage.cache_read.input_tokens": last.num_cached_tokens,
                "gen_ai.usage.output_tokens": last.num_completion_tokens,
                "gen_ai.response.finish_reasons": [last.reason.value],
                "corral.accepted_draft_tokens": last.num_accepted,
            }
        )

    def failed(self, error: Exception) -> None:
        self._span.set_status(StatusCode.ERROR, type(error).__name__)

    def close(self) -> None:
        self._span.end()

    def _part(self, name: str, start: int, end: int) -> None:
        context = set_span_in_context(self._span, Context())
        self._tracer.start_span(name, context, start_time=start).end(end)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
