"""What the gateway costs: time it adds to a request, requests it carries, processor time for each streamed token.

    python -m bench.gateway [--rounds 5] [--seconds 3] [--rate 100] [--nginx] [--litellm PATH]

A mock worker stands behind it, which computes nothing, so that all that is left is the way of a request. Added latency
is the time through the gateway less that of the same call made to the worker directly, both by the same schedule: each
connection's sends are due at times fixed beforehand, evenly spread over all connections, and a latency counts from
when its send was due. So a slow answer is charged for the requests it holds up (a loop that asks again when it was
answered would leave those out), and no connections fall into step. The rate is calm by default, one request in 10 ms,
several times what one takes: what is measured is the way and not a line in front of it. How much fits in is another
figure, requests/s, of connections that each ask again at once. nginx, with the shipped configuration, and LiteLLM's
proxy each stand in front of the gateway, and are charged what they add to it.
Invariant: figures that are compared come from the same round, with the servers taking turns within it.
"""

import argparse
import asyncio
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import uvloop

from bench.load import percentile
from protos import inference_pb2 as pb
from router.rpc.replica import Replica
from tests.nginx.proxy import proxy

_PATH = "/v1/chat/completions"
_START_SECONDS = 300.0
_TOKEN = "bench"  # of a worker that lives as long as the run
_MOCK = f"{sys.executable} -m tests.router.mock_worker"
_EARLY = 0.001  # seconds, by which timers wake before something is due

Call = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Server:
    """Something that answers chats over HTTP, and the processes that this costs."""

    name: str
    port: int
    processes: tuple[psutil.Process, ...]
    tls: ssl.SSLContext | None = None

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("localhost", self.port, ssl=self.tls)


@dataclass(slots=True)
class Figures:
    """One server's, by round. Latencies in milliseconds, processor time in microseconds."""

    p50: list[float]
    p99: list[float]
    rate: list[float]
    per_request: list[list[float]]  # by process
    per_token: list[list[float]]

    @classmethod
    def none(cls) -> "Figures":
        return cls([], [], [], [], [])


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    found: dict[str, Figures] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        worker = stack.enter_context(_worker(folder))
        servers = [stack.enter_context(_corral(folder, options))]
        if options.nginx:
            servers.append(stack.enter_context(_nginx(folder, servers[0])))
        if options.litellm:
            servers.append(stack.enter_context(_litellm(options.litellm, folder, servers[0])))
        uvloop.run(_rounds(worker, servers, options, found))
    print(as_markdown(found, options))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.gateway", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--connections", type=int, default=10, metavar="N")
    parser.add_argument("--rate", type=float, default=100.0, help="requests/s at which latency is measured")
    parser.add_argument("--streams", type=int, default=16, metavar="N")
    parser.add_argument("--tokens", type=int, default=256, metavar="N", help="of each stream")
    parser.add_argument("--nginx", action="store_true", help="measure it beside, with TLS, as nginx/corral.conf has it")
    parser.add_argument("--litellm", type=Path, metavar="PATH", help="its program, to be measured beside")
    return parser


async def _rounds(
    worker: str, servers: Sequence[Server], options: argparse.Namespace, found: dict[str, Figures]
) -> None:
    replica = Replica("mock", worker, _TOKEN)
    await replica.serving()
    try:
        for number in range(options.rounds + 1):  # the first one warms up
            before = direct = await _latencies([partial(_direct, replica)] * options.connections, options)
            for server in servers:
                async with _connected(server, options.connections) as calls:
                    through = await _latencies(calls, options)
                    rate, cost = await _rate(server, calls, options)
                figures = found.setdefault(server.name, Figures.none()) if number else Figures.none()
                figures.p50.append((percentile(through, 50) - percentile(before, 50)) * 1000)
                figures.p99.append((percentile(through, 99) - percentile(before, 99)) * 1000)
                figures.rate.append(rate)
                figures.per_request.append(cost)
                figures.per_token.append(await _per_token(server, options))
                before = through if before is direct else before  # the others stand in front of the first
            print(f"round {number}/{options.rounds}", file=sys.stderr, flush=True)
    finally:
        await replica.close()


# ---- measurements -----------------------------------------------------------------------------


async def _latencies(calls: Sequence[Call], options: argparse.Namespace) -> list[float]:
    """Seconds from when each call was due to its answer, in order of size."""
    begin = time.perf_counter() + _EARLY
    dues = [begin + number / options.rate for number in range(int(options.seconds * options.rate))]
    seconds: list[float] = []

    async def user(call: Call, dues: Sequence[float]) -> None:
        for due in dues:
            await _until(due)
            await call()
            seconds.append(time.perf_counter() - due)

    await asyncio.gather(*(user(call, dues[number :: len(calls)]) for number, call in enumerate(calls)))
    return sorted(seconds)


async def _until(due: float) -> None:
    """Returns on time, or at once if it is late: the end of the wait is spent awake, since timers are coarse."""
    await asyncio.sleep(max(due - time.perf_counter() - _EARLY, 0.0))
    while time.perf_counter() < due:  # noqa: ASYNC110 (nothing tells that it is time)
        await asyncio.sleep(0)


async def _rate(server: Server, calls: Sequence[Call], options: argparse.Namespace) -> tuple[float, list[float]]:
    """Whole answers a second, each connection asking again at once; microseconds of each process for one."""
    before = _used(server)
    began, num_answers = time.perf_counter(), 0

    async def user(call: Call) -> None:
        nonlocal num_answers
        while time.perf_counter() < began + options.seconds:
            await call()
            num_answers += 1

    await asyncio.gather(*map(user, calls))
    return num_answers / (time.perf_counter() - began), _each(before, _used(server), num_answers)


async def _per_token(server: Server, options: argparse.Namespace) -> list[float]:
    """Microseconds of each process for a streamed token."""
    before = _used(server)
    body = _body(options.tokens, stream=True)
    await asyncio.gather(*(_stream(server, body) for _ in range(options.streams)))
    return _each(before, _used(server), options.streams * options.tokens)


def _used(server: Server) -> list[float]:
    """Seconds that each process has computed."""
    times = [process.cpu_times() for process in server.processes]
    return [each.user + each.system for each in times]


def _each(before: Sequence[float], after: Sequence[float], number: int) -> list[float]:
    return [(late - early) / number * 1e6 for early, late in zip(before, after, strict=True)]


# ---- calls ------------------------------------------------------------------------------------


def _body(num_tokens: int, *, stream: bool) -> bytes:
    messages = [{"role": "user", "content": f"stop_at={num_tokens}"}]
    body = {"model": "mock", "messages": messages, "max_tokens": num_tokens, "stream": stream}
    payload = json.dumps(body).encode()
    head = f"POST {_PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload


@asynccontextmanager
async def _connected(server: Server, num_connections: int) -> AsyncIterator[list[Call]]:
    """A call over each of as many connections, which stay open meanwhile."""
    connections = [await server.connect() for _ in range(num_connections)]
    yield [partial(_ask, server, *connection) for connection in connections]
    for _, writer in connections:
        writer.close()


async def _ask(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"{server.name}: {head!r}")
    length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
    await reader.readexactly(int(length))


_REQUEST = _body(1, stream=False)


async def _stream(server: Server, request: bytes) -> None:
    reader, writer = await server.connect()
    writer.write(request)
    rest = b""
    while b"data: [DONE]" not in rest:
        data = await reader.read(65536)
        if not data:
            raise RuntimeError(f"a stream broke off: {rest!r}")
        rest = rest[-64:] + data
    writer.close()


async def _direct(replica: Replica) -> None:
    chat = pb.Chat(messages_json=json.dumps([{"role": "user", "content": "stop_at=1"}]))
    with replica.calling(pb.GenerateRequest(prompt=pb.Prompt(chat=chat), max_tokens=1)) as call:
        while await call.take():
            pass


# ---- servers ----------------------------------------------------------------------------------


@contextmanager
def _running(command: Sequence[str], **environment: str) -> Iterator[psutil.Process]:
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield psutil.Process(process.pid)
        finally:
            process.terminate()


@contextmanager
def _worker(folder: Path) -> Iterator[str]:
    address = f"unix:{folder}/worker.sock"
    command = [*_MOCK.split(), "-m", str(folder / "mock.gguf"), "--listen", address]
    with _running(command, CORRAL_WORKER_TOKEN=_TOKEN):
        yield address


@contextmanager
def _corral(folder: Path, options: argparse.Namespace) -> Iterator[Server]:
    model, port = folder / "mock.gguf", free_port()
    model.touch()
    command = [sys.executable, "-m", "router", "serve", "-m", str(model), "--port", str(port), "-lv", "2"]
    command += ["--parallel", str(max(options.connections, options.streams))]  # or most of them would wait in line
    with _running([*command, "--worker-command", _MOCK]) as gateway:
        _wait(f"http://127.0.0.1:{port}/health")
        yield Server("corral", port, (gateway, *gateway.children()))


@contextmanager
def _nginx(folder: Path, behind: Server) -> Iterator[Server]:
    gateway = f"127.0.0.1:{behind.port}"
    with proxy(folder, [gateway, gateway]) as running:
        master = psutil.Process(running.process.pid)
        tls = ssl.create_default_context(cafile=str(folder / "corral.crt"))
        yield Server("nginx", int(running.url.rpartition(":")[2]), tuple(master.children()), tls)


@contextmanager
def _litellm(program: Path, folder: Path, behind: Server) -> Iterator[Server]:
    port, config = free_port(), folder / "litellm.yaml"
    entry = {"model": "openai/mock", "api_base": f"http://127.0.0.1:{behind.port}/v1", "api_key": "none"}
    open_to_all = {"dangerously_permit_weak_or_unset_master_key": True}  # as the gateway behind it is here
    models = [{"model_name": "mock", "litellm_params": entry}]
    config.write_text(json.dumps({"model_list": models, "general_settings": open_to_all}))
    command = [str(program), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    with _running(command, LITELLM_LOCAL_MODEL_COST_MAP="True") as proxy:
        _wait(f"http://127.0.0.1:{port}/health/liveliness")
        yield Server("litellm", port, (proxy,))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _wait(url: str) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"nobody answers at {url}")


def as_markdown(found: dict[str, Figures], options: argparse.Namespace) -> str:
    """Medians of the rounds."""
    lines = [
        f"{options.connections} connections, {options.streams} streams; processor time by process: gateway, worker",
        "",
        "| | added p50 ms | added p99 ms | requests/s | us per request | us per token |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, figures in found.items():
        cells = [f"{statistics.median(figures.p50):.2f}", f"{statistics.median(figures.p99):.2f}"]
        cells += [f"{statistics.median(figures.rate):.0f}", _shown(figures.per_request), _shown(figures.per_token)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(rounds: Sequence[Sequence[float]]) -> str:
    """The median of each process, and their sum where there are several."""
    medians = [statistics.median(each) for each in zip(*rounds, strict=True)]
    parts = " + ".join(f"{each:.0f}" for each in medians)
    return f"{sum(medians):.0f} ({parts})" if len(medians) > 1 else parts


if __name__ == "__main__":
    raise SystemExit(main())
