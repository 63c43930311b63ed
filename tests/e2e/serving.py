"""`corral serve` as a user starts it: a real process, real workers, a port of its own."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import psutil

DEADLINE = 280.0  # seconds; the first start on a machine compiles


@dataclass(frozen=True)
class Serving:
    """A running `corral serve`."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path  # its standard error
    http: httpx.Client
    openai: openai.OpenAI

    def workers(self) -> list[psutil.Process]:
        """Its worker processes now, in the order they were started."""
        return self._children("corral-worker")

    def nurseries(self) -> list[psutil.Process]:
        """The processes that its workers are forked from."""
        return self._children("corral-nursery")

    def _children(self, name: str) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return sorted((child for child in children if is_called(child, name)), key=lambda child: child.create_time())

    def state(self, model: str) -> str:
        return str(self.http.get(f"/v1/models/{model}").json()["status"]["value"])

    def num_running(self, model: str) -> int:
        return sum(slot["is_processing"] for slot in self.http.get("/slots", params={"model": model}).json())


def is_called(process: psutil.Process, name: str) -> bool:
    try:
        return process.name() == name
    except psutil.Error:
        return False


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "router", "serve", *map(str, arguments)]


@contextmanager
def serving(log: Path, *arguments: str | Path) -> Iterator[Serving]:
    """Starts on a free port and waits until /health says ok. Leaves no process behind."""
    with log.open("wb") as errors:
        process = subprocess.Popen(command(*arguments, "--port", "0"), stderr=errors)
    try:
        url = listening(process, log)
        with (
            httpx.Client(base_url=url, timeout=DEADLINE, trust_env=False) as http,
            openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=DEADLINE) as client,
        ):
            until(lambda: process.poll() is not None or http.get("/health").status_code == 200)
            assert process.poll() is None, log.read_text()
            yield Serving(process, url, log, http, client)
    finally:
        family = [process, *_descendants(process.pid)]
        for each in family:
            each.kill()
        process.wait(DEADLINE)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def listening(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address it says it listens on."""

    def said() -> re.Match[str] | None:
        return re.search(r"listens on (http://\S+)", log.read_text())

    until(lambda: said() is not None or process.poll() is not None)
    found = said()
    assert found is not None, log.read_text()
    return found[1]


def until(condition: Callable[[], bool]) -> None:
    """Polls until the condition holds."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
