"""How these tests reach a gateway: a process to talk to, plain HTTP, raw sockets, and event streams taken apart."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

DEADLINE = 120.0  # seconds; only ever reached by a failing test


@dataclass(frozen=True)
class Gateway:
    """A gateway process with mock workers."""

    port: int
    http: httpx.Client

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def num_running(self, model: str = "tiny") -> int:
        """Requests the mock worker is at work on."""
        return sum(slot["is_processing"] for slot in self.http.get("/slots", params={"model": model}).json())

    def send(self, path: str, **body: Any) -> socket.socket:
        """A request on a socket of its own; the answer is for the caller to read, or not."""
        data = json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
        head = "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""])
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)
        connection.sendall(head.encode() + data)
        return connection


@contextmanager
def gateway(*models: str, key: str = "") -> Iterator[Gateway]:
    """A gateway that answers /health with ok."""
    command = [sys.executable, "-m", "tests.router.api.gateway_process", key, *models]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        try:
            port = int(process.stdout.readline())
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE, trust_env=False) as http:
                until(lambda: http.get("/health").status_code == 200)
                yield Gateway(port, http)
        finally:
            process.stdin.close()
            process.wait(DEADLINE)


def until(condition: Callable[[], bool]) -> None:
    """Polls until the condition holds."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def events(text: str) -> list[Any]:
    """The JSON of every event of a stream; its end mark stays a string."""
    blocks = text.split("\n\n")
    assert blocks.pop() == "", "the last event is cut"
    datas = [block.removeprefix("data: ") for block in blocks if block != ":"]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


def masked(text: str) -> str:
    """A transcript without what differs from run to run."""
    text = re.sub(r'"id":"chatcmpl-[A-Za-z0-9]{32}"', '"id":"ID"', text)
    text = re.sub(r'"created":\d{10}', '"created":0', text)
    return re.sub(r'"(prompt_ms|predicted_ms|[a-z_]+_per_[a-z_]+)":[0-9.e+-]+', r'"\1":0', text)
