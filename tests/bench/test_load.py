"""The load generator against a server that answers as told."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from bench import load
from bench.sse import Exchange, Target, exchange

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":null},"finish_reason":null}]}\n\n'
TEXT = b'data: {"choices":[{"delta":{"content":"two words"},"finish_reason":null}]}\n\n'
END = b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"


def chunked(*pieces: bytes, last: bool = True) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return body + (b"0\r\n\r\n" if last else b"")


@asynccontextmanager
async def answering(*parts: bytes) -> AsyncIterator[Target]:
    """A server that sends these bytes, each after the last was flushed, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Target.of(f"http://127.0.0.1:{port}", "/v1/chat/completions")


async def ask(*parts: bytes) -> Exchange:
    async with answering(*parts) as target:
        return await exchange(target, {"stream": True})


async def test_an_orderly_stream_is_counted_by_its_usage() -> None:
    found = await ask(OK, chunked(ROLE, TEXT, TEXT, END, USAGE, DONE))
    assert found.fault == ""
    assert (found.num_prompt, found.num_generated) == (7, 5)
    assert len(found.arrivals) == 2


@pytest.mark.parametrize("cut", [1, 9, len(TEXT) - 1])
async def test_an_event_cut_by_a_chunk_is_one_event(cut: int) -> None:
    found = await ask(OK, chunked(ROLE, TEXT[:cut], TEXT[cut:], END, USAGE, DONE))
    assert found.fault == ""
    assert len(found.arrivals) == 1


@pytest.mark.parametrize(
    "pieces", [(ROLE, TEXT), (ROLE, TEXT, DONE), (ROLE, TEXT, END)], ids=["cut", "no reason", "no done"]
)
async def test_a_stream_without_its_end_is_a_failure(pieces: Sequence[bytes]) -> None:
    assert (await ask(OK, chunked(*pieces))).fault == "the stream broke off"


async def test_a_connection_that_breaks_is_a_failure() -> None:
    assert (await ask(OK, chunked(ROLE, TEXT, last=False))).fault == "the stream broke off"


async def test_an_error_event_is_a_failure_with_its_message() -> None:
    event = b'data: {"error":{"code":500,"message":"worker died","type":"server_error"}}\n\n'
    assert (await ask(OK, chunked(ROLE, event))).fault == "worker died"


async def test_a_refusal_is_a_failure_with_its_status() -> None:
    body = b'{"error":{"message":"no"}}'
    head = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert (await ask(head + body)).fault == 'status 429: {"error":{"message":"no"}}'


async def test_an_absent_server_is_a_failure() -> None:
    async with answering() as target:
        pass
    assert "Error" in (await exchange(target, {})).fault


def test_latencies_follow_their_definitions() -> None:
    one = Exchange(10.0, 12.0, [10.5, 11.0, 12.0], num_prompt=7, num_generated=4)
    found = load.report([one], 2.0)
    means = {figures.name: figures.mean for figures in found.latencies}
    assert means == {"TTFT": 500.0, "TPOT": 500.0, "ITL": 750.0, "E2EL": 2000.0}
    assert "2.0 output tokens/s, 3.5 prompt tokens/s" in load.as_markdown(found)


def test_failed_requests_add_to_no_figure() -> None:
    good = Exchange(0.0, 1.0, [0.5, 1.0], num_prompt=1, num_generated=2)
    bad = Exchange(0.0, 9.0, [8.0], num_prompt=100, num_generated=100, fault="x")
    found = load.report([good, bad], 1.0)
    assert (found.num_requests, found.num_failed, found.first_fault) == (2, 1, "x")
    assert (found.num_prompt, found.num_generated) == (1, 2)
    assert {figures.name: figures.mean for figures in found.latencies}["E2EL"] == 1000.0


@pytest.mark.parametrize(("part", "value"), [(50, 5), (90, 9), (99, 10), (100, 10)])
def test_percentiles_are_values_that_occurred(part: int, value: int) -> None:
    assert load.percentile(range(1, 11), part) == value


def test_prompts_have_their_length_and_differ_where_told() -> None:
    first, second = (load.prompt(number, 40, 10).split() for number in (0, 1))
    assert len(first) == len(second) == 40
    assert first[:10] == second[:10]
    assert first[10] != second[10]
