"""One trace through both processes: what a collector gets of a request to a real worker."""

from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector

from tests.e2e.serving import serving, until
from tests.models import smollm2
from tests.router.observe.test_spans import http_collector
from tests.router.observe.test_traces import PARENT, SPAN, TRACE

pytestmark = pytest.mark.timeout(600)


def test_a_request_is_one_trace_from_the_client_to_the_last_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")  # milliseconds between two exports
    received: list[collector.ExportTraceServiceRequest] = []
    with (
        http_collector(received) as url,
        serving(tmp_path / "log", "--alias", f"tiny={smollm2()}", "--otlp", url) as served,
    ):
        body = {"prompt": "The capital of France is", "max_tokens": 4}
        assert served.http.post("/completion", json=body, headers={"traceparent": PARENT}).status_code == 200
        last_of_each = (b"POST /completion", b"generate")
        until(lambda: all(name in b"".join(r.SerializeToString() for r in received) for name in last_of_each))
    spans, services = {}, {}
    for resource in (each for request in received for each in request.resource_spans):
        [service] = [pair.value.string_value for pair in resource.resource.attributes if pair.key == "service.name"]
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            if span.trace_id.hex() == TRACE:
                spans[span.name], services[span.name] = span, service
    names = {span.span_id: name for name, span in spans.items()}
    parents = {name: names.get(span.parent_span_id, "") for name, span in spans.items()}
    parents.pop("replica", None)  # a wait that may be too short to be told
    assert parents == {
        "POST /completion": "",
        "text_completion tiny": "POST /completion",
        "generate": "text_completion tiny",
        **dict.fromkeys(("queue", "prompt", "decode"), "generate"),
    }
    assert spans["POST /completion"].parent_span_id.hex() == SPAN
    assert {name for name, service in services.items() if service == "corral-worker"} == {
        "generate",
        "queue",
        "prompt",
        "decode",
    }
