"""Spans of generations: under the gateway's, one for each part, and nothing of what was said."""

import logging
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from tests.worker.rpc.serving import generate_request, serving
from worker.errors import WorkerError
from worker.spans import SpanTraces
from worker.traces import exporting

pytestmark = pytest.mark.anyio
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
async def worker(tmp_path, exporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with serving(tmp_path, traces=SpanTraces(provider)) as worker:
        yield worker


async def test_a_generation_is_a_span_under_the_gateways_with_its_parts_in_a_row(worker, exporter):
    await worker.answer(max_tokens=3, traceparent=PARENT)
    await worker.until_open(0)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    whole = spans.pop("generate")
    assert (f"{whole.context.trace_id:032x}", f"{whole.parent.span_id:016x}") == (TRACE, SPAN)
    assert spans.keys() == {"queue", "prompt", "decode"}
    assert {span.parent.span_id for span in spans.values()} == {whole.context.span_id}
    assert spans["queue"].end_time == spans["prompt"].start_time
    assert spans["prompt"].end_time == spans["decode"].start_time
    assert spans["decode"].end_time <= whole.end_time
    assert whole.attributes["gen_ai.usage.input_tokens"] == 3
    assert whole.attributes["gen_ai.usage.output_tokens"] == 3


async def test_a_refusal_is_a_span_that_failed(worker, exporter):
    await worker.error(max_tokens=3, stop=["x"] * 2000)
    [span] = exporter.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "InvalidRequest")


async def test_a_span_of_a_client_that_leaves_ends(worker, exporter):
    worker.model.gate.clear()
    call = worker.stub.Generate(generate_request(), metadata=worker.metadata)
    await worker.until_submitted(1)
    call.cancel()
    await worker.until_open(0)
    [span] = exporter.get_finished_spans()
    assert (span.name, span.status.status_code) == ("generate", StatusCode.UNSET)


def test_nothing_is_exported_without_a_collector_or_the_extra(monkeypatch, caplog):
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    for environment in ({}, {**endpoint, "OTEL_TRACES_EXPORTER": "none"}):
        assert type(exporting(environment)).__name__ == "Traces"
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.delitem(sys.modules, "worker.spans")
    with caplog.at_level(logging.WARNING):
        assert type(exporting(endpoint)).__name__ == "Traces"
    assert "pip install 'corral[otel]'" in caplog.text


def test_an_unknown_protocol_is_refused():
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon"}
    with pytest.raises(WorkerError, match="must be one of http/protobuf, grpc, but is 'carrier-pigeon'"):
        exporting(environment)
