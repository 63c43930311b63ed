"""Spans of requests for OpenTelemetry: the request, its waits, each call of a replica.

Imported by traces.py, only when traces are exported, for it needs `corral[otel]`. Attributes have the names of
OpenTelemetry's conventions for HTTP and for generative AI, and `corral.` where there is none. Invariant: no prompt, no
answer and no key is in a span, and what it says of an error is its kind.
"""

import importlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from protos import inference_pb2 as pb
from router.errors import CommandError
from router.observe.access import CLIENT_LEFT
from router.observe.traces import Trace, Traces, given_trace

PROVIDER = "corral"  # and the name of this service, unless OpenTelemetry's variables have another
_EXPORTERS: Mapping[str, str] = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}
_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
_TRACES_PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
CLOSE_SECONDS = 1.0  # for what is not exported yet
SHORTEST_WAIT = 0.001  # seconds that are worth a span
_PROPAGATOR = TraceContextTextMapPropagator()

# What the log says of a request, by the conventions' names.
_ATTRIBUTES: Mapping[str, str] = {
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "error": "error.type",
    "request_id": "corral.request_id",
    "key": "corral.key",
    "alias": "gen_ai.request.model",
    "model": "gen_ai.response.model",
    "way": "corral.route",
    "replica": "corral.replica",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "finish": "gen_ai.response.finish_reasons",
    "first_token_ms": "gen_ai.response.time_to_first_chunk",
}
_SAMPLING = ("temperature", "top_k", "top_p", "presence_penalty", "frequency_penalty")


def exported(environment: Mapping[str, str]) -> Traces:
    """Sends spans to the collector that OpenTelemetry's variables name. Raises CommandError."""
    protocol = environment.get(_TRACES_PROTOCOL) or environment.get(_PROTOCOL) or next(iter(_EXPORTERS))
    if protocol not in _EXPORTERS:
        raise CommandError(f"{_PROTOCOL} must be one of {', '.join(_EXPORTERS)}, but is '{protocol}'", 2)
    exporter = importlib.import_module(_EXPORTERS[protocol]).OTLPSpanExporter()
    named = Resource.create({"service.name": PROVIDER}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return SpanTraces(provider)


class SpanTraces(Traces):
    """Begins a span for each request."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(PROVIDER)

    def begin(self, method: str, headers: Iterable[tuple[bytes, bytes]]) -> Trace:
        given = given_trace(headers)
        parent = _PROPAGATOR.extract({"traceparent": given.parent, "tracestate": given.state}, Context())
        return SpanTrace(self._tracer, self._tracer.start_span(method, parent, SpanKind.SERVER))

    def close(self) -> None:
        closing = threading.Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


class SpanTrace(Trace):
    """A span that is open; steps are spans under it."""

    __slots__ = ("_context", "_span", "_tracer")
    is_recorded = True

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span, Context())
        super().__init__(format_trace_id(span.get_span_context().trace_id), *_parent_and_state(self._context))

    @contextmanager
    def attempt(self, replica: str, request: pb.GenerateRequest) -> Iterator[None]:
        asked = _asked(replica, request)
        name = f"{asked['gen_ai.operation.name']} {asked['gen_ai.request.model']}"
        span = self._tracer.start_span(name, self._context, SpanKind.CLIENT, asked)
        request.traceparent, request.tracestate = _parent_and_state(set_span_in_context(span, Context()))
        try:
            yield
        except Exception as error:
            _fail(span, type(error).__name__)
            raise
        finally:
            span.end()

    def waited(self, name: str, seconds: float) -> None:
        if seconds >= SHORTEST_WAIT:
            now = time.time_ns()
            self._tracer.start_span(name, self._context, start_time=now - int(seconds * 1e9)).end(now)

    def end(self, event: Mapping[str, Any]) -> None:
        self._span.update_name(f"{event['method']} {event['route']}")
        for name, value in event.items():
            if name in _ATTRIBUTES:
                self._span.set_attribute(_ATTRIBUTES[name], _converted(name, value))
        kind = event.get("error", "")
        if event["status"] >= 500 or (event["status"] == 200 and kind not in ("", CLIENT_LEFT)):
            _fail(self._span, kind)
        self._span.end()


def _parent_and_state(context: Context) -> tuple[str, str]:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, context)
    return carrier.get("traceparent", ""), carrier.get("tracestate", "")


def _asked(replica: str, request: pb.GenerateRequest) -> dict[str, Any]:
    """What the conventions want to know of a request to a model."""
    asked: dict[str, Any] = {
        "gen_ai.operation.name": "chat" if request.prompt.HasField("chat") else "text_completion",
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": replica.rpartition("/")[0],
        "corral.replica": replica,
        "corral.resumed_tokens": len(request.resume.tokens),
        **{f"gen_ai.request.{name}": getattr(request.sampling, name) for name in _SAMPLING},
    }
    if request.max_tokens >= 0:
        asked["gen_ai.request.max_tokens"] = request.max_tokens
    if request.sampling.has_seed:
        asked["gen_ai.request.seed"] = request.sampling.seed
    return asked


def _converted(name: str, value: Any) -> Any:
    """Seconds and lists where the conventions have them."""
    return value / 1000 if name == "first_token_ms" else [value] if name == "finish" else value


def _fail(span: Span, kind: str) -> None:
    span.set_status(StatusCode.ERROR, kind)
