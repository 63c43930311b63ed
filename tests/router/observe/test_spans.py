"""Spans of requests: what is under what, what they say, and that they reach a collector."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as collector_grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from router.config import LimitsConfig, ModelConfig
from router.errors import CommandError
from router.observe.spans import SpanTraces
from router.observe.traces import exporting
from tests.router.gateways import Gateway, config, running
from tests.router.mocks import until
from tests.router.observe.test_traces import PARENT, SPAN, TRACE, told

pytestmark = pytest.mark.anyio

SECRET = "xyzzy"


class Traced:
    """A gateway whose spans are kept."""

    def __init__(self, gateway: Gateway, exporter: InMemorySpanExporter) -> None:
        self.gateway = gateway
        self._exporter = exporter

    async def spans(self, num: int) -> list[ReadableSpan]:
        """So many, once they have ended, in the order in which they began; without waits for a replica."""
        await until(lambda: len(self._found()) >= num)
        found = self._found()
        assert len(found) == num, [span.name for span in found]
        return found

    def _found(self) -> list[ReadableSpan]:
        spans = [span for span in self._exporter.get_finished_spans() if span.name != "replica"]
        return sorted(spans, key=lambda span: span.start_time or 0)

    async def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = await self.gateway.client.post(path, json=body, headers={"traceparent": PARENT})
        return dict(answer.json())


@pytest.fixture
async def traced() -> AsyncIterator[Traced]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    model = ModelConfig(Path("/models/a.gguf"), ("a",), replicas=2)
    settings = replace(config(), models=(model,), limits=LimitsConfig(in_flight=1))
    async with running(settings, traces=SpanTraces(provider)) as gateway:
        await until(lambda: len(gateway.app.state.fleet.open("a")) == 2)
        yield Traced(gateway, exporter)


def is_under(span: ReadableSpan, parent: ReadableSpan) -> bool:
    assert span.parent is not None and parent.context is not None
    return span.parent.span_id == parent.context.span_id


async def test_a_request_is_a_span_under_the_clients_with_an_attempt_under_it(traced: Traced) -> None:
    messages = [{"role": "user", "content": f"{SECRET} stop_at=3"}]
    await traced.post("/v1/chat/completions", messages=messages, model="a", temperature=0.5, max_tokens=9)
    request, attempt = await traced.spans(2)
    assert request.context is not None and request.parent is not None
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, SPAN)
    assert is_under(attempt, request)
    assert (request.name, attempt.name) == ("POST /v1/chat/completions", "chat a")
    told, asked = dict(request.attributes or {}), dict(attempt.attributes or {})
    assert told["http.response.status_code"] == 200
    assert (told["gen_ai.request.model"], told["gen_ai.usage.output_tokens"]) == ("a", 3)
    assert told["gen_ai.response.finish_reasons"] == ("stop",)
    assert (asked["gen_ai.operation.name"], asked["gen_ai.provider.name"]) == ("chat", "corral")
    assert (asked["gen_ai.request.temperature"], asked["gen_ai.request.max_tokens"]) == (0.5, 9)
    assert SECRET not in request.to_json() + attempt.to_json()


async def test_the_worker_is_told_of_the_attempt(traced: Traced) -> None:
    parent = await told(traced.gateway, "traceparent", traceparent=PARENT)
    _, attempt = await traced.spans(2)
    assert attempt.context is not None
    assert parent == f"00-{TRACE}-{attempt.context.span_id:016x}-01"


async def test_a_lost_worker_is_an_attempt_that_failed_beside_one_that_did_not(traced: Traced, tmp_path: Path) -> None:
    await traced.post("/completion", prompt=f"crash_after=2 crash_once={tmp_path / 'crashed'}")
    request, first, second = await traced.spans(3)
    assert is_under(first, request) and is_under(second, request)
    assert (first.status.status_code, first.status.description) == (StatusCode.ERROR, "WorkerLost")
    assert (second.status.status_code, request.status.status_code) == (StatusCode.UNSET, StatusCode.UNSET)
    assert (second.attributes or {})["corral.resumed_tokens"] == 2


async def test_waiting_in_line_is_a_span(traced: Traced) -> None:
    stream = {"prompt": "stop_at=100000 delay=0.01", "stream": True}
    async with traced.gateway.client.stream("POST", "/completion", json=stream) as first:
        lines = first.aiter_lines()
        await anext(lines)
        policies = traced.gateway.app.state.policies
        waiting = asyncio.create_task(traced.post("/completion", prompt="stop_at=1"))
        await until(lambda: policies.dispatcher.num_waiting("a") == 1)
    await waiting
    found = [span for span in await traced.spans(5) if span.context and f"{span.context.trace_id:032x}" == TRACE]
    spans = {span.name: span for span in found}
    assert spans.keys() == {"POST /completion", "queue", "text_completion a"}
    assert is_under(spans["queue"], spans["POST /completion"])
    assert (spans["queue"].end_time or 0) <= (spans["text_completion a"].start_time or 0)


async def test_mistakes_of_clients_are_no_errors_and_probes_no_spans(traced: Traced) -> None:
    await traced.gateway.client.get("/health")
    await traced.post("/completion", prompt={})
    await traced.post("/completion", prompt="refuse=INTERNAL")
    bad, failed, attempt = await traced.spans(3)
    assert (bad.attributes or {})["error.type"] == "InvalidRequest"
    assert [span.status.status_code for span in (bad, failed, attempt)] == [
        StatusCode.UNSET,
        StatusCode.ERROR,
        StatusCode.ERROR,
    ]


# ---- collectors -------------------------------------------------------------------------------

Received = list[collector.ExportTraceServiceRequest]


@contextmanager
def http_collector(received: Received) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append(collector.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def grpc_collector(received: Received) -> Iterator[str]:
    class Service(collector_grpc.TraceServiceServicer):  # type: ignore[misc]
        def Export(
            self, request: collector.ExportTraceServiceRequest, context: object
        ) -> collector.ExportTraceServiceResponse:
            received.append(request)
            return collector.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(1))
    collector_grpc.add_TraceServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None)


@pytest.mark.parametrize(
    ("protocol", "start"), [("", http_collector), ("http/protobuf", http_collector), ("grpc", grpc_collector)]
)
def test_what_is_left_reaches_the_collector_at_the_end(
    protocol: str, start: Callable[[Received], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    received: Received = []
    with start(received) as url:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        traces = exporting(url, {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol})
        traces.begin("GET", []).end({"method": "GET", "route": "/props", "status": 200})
        traces.close()
    [resource] = received[0].resource_spans
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == ["GET /props"]
    names = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert names["service.name"] == "corral"


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(CommandError, match="must be one of http/protobuf, grpc, but is 'carrier-pigeon'"):
        exporting("http://x", {"OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon"})
