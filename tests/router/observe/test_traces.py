"""What a client says of its trace: judged, told to the worker, and, where nothing is exported, no more than that."""

import logging
import sys

import pytest

from router.observe.traces import UNTRACED, exporting, given_trace
from tests.router.gateways import Gateway, config, running

pytestmark = pytest.mark.anyio

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("parent", "is_valid"),
    [
        (PARENT, True),
        (f"00-{TRACE}-{SPAN}-00", True),  # not sampled, but a trace
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", True),
        (f"00-{TRACE}-{SPAN}-01-more", False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE[1:]}-{SPAN}-01", False),
        (f"cc-{TRACE}-{SPAN}-01-\n", False),
        (f"cc-{TRACE}-{SPAN}-01-{'x' * 500}", False),
        ("", False),
    ],
)
def test_only_a_valid_parent_is_taken(parent: str, is_valid: bool) -> None:
    found = given_trace([(b"host", b"x"), (b"traceparent", parent.encode())])
    expected = (TRACE, parent) if is_valid else ("", "")
    assert (found.trace_id, found.parent) == expected


def test_two_parents_are_none_and_states_are_joined() -> None:
    parent, state = (b"traceparent", PARENT.encode()), (b"tracestate", b"a=1")
    assert given_trace([parent, parent]) is UNTRACED
    assert given_trace([state]) is UNTRACED
    joined = given_trace([parent, state, (b"tracestate", b"b=2")])
    assert (joined.parent, joined.state) == (PARENT, "a=1,b=2")
    odd = given_trace([parent, (b"tracestate", "é".encode())])
    assert (odd.parent, odd.state) == (PARENT, "")


async def told(gateway: Gateway, name: str, **headers: str) -> str:
    """What a field of the worker's request says when the client's has these headers."""
    answer = await gateway.client.post("/completion", json={"prompt": f"field={name}"}, headers=headers)
    return str(answer.json()["content"])


async def test_without_a_collector_the_clients_trace_is_passed_on_as_it_is() -> None:
    async with running(config("tiny")) as gateway:
        assert await told(gateway, "traceparent", traceparent=PARENT) == PARENT
        assert await told(gateway, "tracestate", traceparent=PARENT, tracestate="a=1") == "a=1"
        assert await told(gateway, "traceparent", traceparent="00-nonsense") == ""
        assert await told(gateway, "traceparent") == ""


def test_without_the_extra_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.delitem(sys.modules, "router.observe.spans", raising=False)
    with caplog.at_level(logging.WARNING):
        traces = exporting("http://collector:4318", {})
    assert traces.begin("GET", [(b"traceparent", PARENT.encode())]).trace_id == TRACE
    assert "pip install 'corral[otel]'" in caplog.text and "http://collector:4318" in caplog.text


def test_opentelemetrys_own_switch_counts() -> None:
    assert not exporting("http://collector:4318", {"OTEL_TRACES_EXPORTER": "none"}).begin("GET", []).is_recorded
    assert not exporting(None, {}).begin("GET", []).is_recorded
