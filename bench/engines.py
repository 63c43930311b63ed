"""One engine as a command that speaks llama-bench's JSON, run once, together with how quiet the machine was.

Called by peers.py. Invariant: a run reports what else the processors did meanwhile; whoever reads the figure decides.
"""

import json
import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]


@dataclass(frozen=True, slots=True)
class Engine:
    name: str
    command: tuple[str, ...]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One rate of one engine."""

    engine: str
    model: str
    test: str
    rate: float  # tokens a second
    foreign: float  # part of all processors' time that others used meanwhile, 0 to 1


class EngineFailed(Exception):
    """The command failed or its answer cannot be read. The message is one line."""


def run(engine: Engine, model: Path, parameters: Sequence[str]) -> list[Sample]:
    """One repetition of each test."""
    command = [*engine.command, "-m", str(model), *parameters, *engine.flags, "-r", "1", "-o", "json"]
    own, everybody, started = _children_seconds(), _busy_seconds(), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    elapsed = time.monotonic() - started
    used = _children_seconds() - own
    foreign = (_busy_seconds() - everybody - used) / (elapsed * (os.cpu_count() or 1))
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineFailed(f"{engine.name} ended with status {done.returncode}: {last}")
    return [
        Sample(engine.name, model.name, test_name(row), float(row["avg_ts"]), max(foreign, 0.0))
        for row in _rows(engine, done.stdout)
    ]


def _rows(engine: Engine, text: str) -> list[Mapping[str, int | float]]:
    try:
        rows: list[Mapping[str, int | float]] = json.loads(text)
    except ValueError as error:
        raise EngineFailed(f"{engine.name} did not answer in JSON: {error}") from error
    return rows


def test_name(row: Mapping[str, int | float]) -> str:
    kind = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
    depth = row.get("n_depth", 0)
    return f"{kind} @ d{depth}" if depth else kind


def wait_until_quiet(most: float, seconds: float) -> None:
    """Until others use less than the part `most` of the processors, but no longer than that many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and psutil.cpu_percent(interval=0.5) > most * 100:
        pass


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _busy_seconds() -> float:
    """Of all processors, including what the host took away."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))
