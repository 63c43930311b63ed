"""One engine as a pair of commands that speak as llama-bench and llama-batched-bench do, and a run of either, together
with how quiet the machine was.

Called by peers.py. Invariant: a run reports what else the processors did meanwhile; whoever reads the figure decides.
"""

import json
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

PROMPT, ANSWER = 64, 64  # tokens of each sequence, where several are generated at once


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to run an engine: those of the same name are compared, and the best counts."""

    name: str
    command: tuple[str, ...]
    batched: tuple[str, ...] = ()  # the command for several sequences, where there is one
    flags: tuple[str, ...] = ()

    @property
    def setting(self) -> str:
        """What the flags say."""
        return " ".join(self.flags)

    @property
    def batched_flags(self) -> tuple[str, ...]:
        """The same for llama-batched-bench, which has another way to say -rtr."""
        pairs = dict(zip(self.flags[::2], self.flags[1::2], strict=False))
        attention = ("-fa", pairs["-fa"]) if "-fa" in pairs else ()
        return (*attention, *(("-rtr",) if pairs.get("-rtr") == "1" else ()))


@dataclass(frozen=True, slots=True)
class Sample:
    """One rate of one engine."""

    engine: str
    setting: str
    model: str
    test: str
    rate: float  # tokens a second
    foreign: float  # part of all processors' time that others used meanwhile, 0 to 1


class EngineFailed(Exception):
    """The command failed or its answer cannot be read. The message is one line."""


def run(engine: Engine, model: Path, parameters: Sequence[str]) -> list[Sample]:
    """One repetition of each of llama-bench's tests."""
    command = [*engine.command, "-m", str(model), *parameters, *engine.flags, "-r", "1", "-o", "json"]
    return _run(engine, model, command, lambda out, err: _rates(out))


def run_batched(engine: Engine, model: Path, num_parallel: int, num_threads: int) -> list[Sample]:
    """S_TG, the rate of so many sequences generating at once; nothing from an engine without the command."""
    if not engine.batched:
        return []
    counts = {"-npp": PROMPT, "-ntg": ANSWER, "-npl": num_parallel, "-c": num_parallel * (PROMPT + ANSWER)}
    parameters = [word for flag, count in {**counts, "-t": num_threads}.items() for word in (flag, str(count))]
    command = [*engine.batched, "-m", str(model), *parameters, *engine.batched_flags]
    return _run(engine, model, command, lambda out, err: _batched_rates(out + err))  # ik_llama.cpp's is a log


def _run(
    engine: Engine, model: Path, command: Sequence[str], read: Callable[[str, str], Mapping[str, float]]
) -> list[Sample]:
    own, everybody, started = _children_seconds(), _busy_seconds(), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    elapsed = time.monotonic() - started
    used = _children_seconds() - own
    foreign = (_busy_seconds() - everybody - used) / (elapsed * (os.cpu_count() or 1))
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineFailed(f"{engine.name} {engine.setting}".rstrip() + f" ended with status {done.returncode}: {last}")
    try:
        rates = read(done.stdout, done.stderr)
    except (ValueError, KeyError) as error:
        raise EngineFailed(f"{engine.name}'s answer cannot be read: {error!r}") from error
    return [
        Sample(engine.name, engine.setting, model.name, test, rate, max(foreign, 0.0)) for test, rate in rates.items()
    ]


def _rates(text: str) -> dict[str, float]:
    return {test_name(row): float(row["avg_ts"]) for row in json.loads(text)}


def test_name(row: Mapping[str, Any]) -> str:
    """`pp512`, `tg128 @ d4096`."""
    kind = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
    depth = row.get("n_depth", 0)
    return f"{kind} @ d{depth}" if depth else kind


def _batched_rates(text: str) -> dict[str, float]:
    rows = list(_table(text))
    if not rows:
        raise ValueError("there is no table of rates")
    return {f"S_TG {row['B']}": float(row["S_TG t/s"]) for row in rows}


def _table(text: str) -> Iterator[dict[str, str]]:
    """The rows of a Markdown table, by its titles."""
    titles: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or set(line) <= set("|-"):
            continue
        if titles:
            yield dict(zip(titles, cells, strict=True))
        else:
            titles = cells


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
