"""Servers that a benchmark starts and compares: their commands, where their models answer, and what they cost.

Used by sharing.py and serving.py. Invariant: no process outlives its `with`.
"""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

_START_SECONDS = 300
_CORES = psutil.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Setup:
    """Servers, and where each model answers."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    places: tuple[tuple[str, str], ...]  # (URL, model) of each model


def corral(name: str, models: Sequence[Path], flags: Sequence[str]) -> Setup:
    """One gateway for all models."""
    port = _free_port()
    files = [argument for model in models for argument in ("-m", str(model))]
    command = (sys.executable, "-m", "router", "serve", *files, *flags, "--port", str(port))
    return Setup(name, (command,), tuple((f"http://127.0.0.1:{port}", model.stem) for model in models))


def llama_servers(name: str, program: Path, models: Sequence[Path], flags: Sequence[str]) -> Setup:
    """One server for each model."""
    ports = [_free_port() for _ in models]
    commands = tuple(
        (str(program), "-m", str(model), *flags, "--port", str(port)) for model, port in zip(models, ports, strict=True)
    )
    return Setup(name, commands, tuple((f"http://127.0.0.1:{port}", "any") for port in ports))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def running(setup: Setup) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The setup's processes, ready to answer."""
    quiet = subprocess.DEVNULL
    processes = [subprocess.Popen(command, stdout=quiet, stderr=quiet) for command in setup.commands]
    try:
        for url, _ in setup.places:
            _wait_until_healthy(url, processes)
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def _wait_until_healthy(url: str, processes: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if any(process.poll() is not None for process in processes):
            raise SystemExit(f"error: a server for {url} ended with status {[p.poll() for p in processes]}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"error: {url} is not healthy after {_START_SECONDS} s")


class Foreign:
    """What others take of the processors while some servers and this process work."""

    def __init__(self, servers: Sequence[subprocess.Popen[bytes]]) -> None:
        self._servers = servers
        self._own, self._all, self._started = self._seconds(), _busy_seconds(), time.monotonic()

    def part(self) -> float:
        """Of all processors' time since this was made."""
        elapsed, used = time.monotonic() - self._started, self._seconds() - self._own
        return max((_busy_seconds() - self._all - used) / (elapsed * _CORES), 0.0)

    def _seconds(self) -> float:
        """Processor time of the servers, their workers and this process."""
        family = [psutil.Process(), *(psutil.Process(server.pid) for server in self._servers)]
        family += [child for server in family[1:] for child in server.children(recursive=True)]
        return float(sum(sum(process.cpu_times()[:2]) for process in family))


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))
