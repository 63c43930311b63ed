"""Two busy models on one machine: what each keeps of the speed it has alone, with turns, without, and in llama-servers.

    python -m bench.sharing -m A.gguf -m B.gguf [--llama-server PATH] [--streams 1] [--seconds 5] [--rounds 5]

All servers run from the start and idle while it is not their turn. A round measures, for every setup, each model alone
and then all together; its share is the sum over the models of (rate together / rate alone): 1.00 is a whole machine.
Invariant: the rates of a share are from the same round, and every stream is busy for the whole time that is counted.
"""

import argparse
import asyncio
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import uvloop

from bench.engines import wait_until_quiet
from bench.load import prompt
from bench.peers import MOST_FOREIGN
from bench.sse import Exchange, Target, exchange

_PATH = "/v1/completions"
_START_SECONDS = 300
_SETTLE_SECONDS = 0.5  # from the first request to the time that is counted
_PROMPT_WORDS, _MAX_TOKENS = 16, 128
_CORES = psutil.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Setup:
    """Servers, and where each model answers."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    places: tuple[tuple[str, str], ...]  # (URL, model) of each model


@dataclass(frozen=True, slots=True)
class Round:
    alone: tuple[float, ...]  # tokens a second, by model
    together: tuple[float, ...]
    foreign: float  # part of all processors' time that others used meanwhile

    @property
    def share(self) -> float:
        return sum(both / one for both, one in zip(self.together, self.alone, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    setups = [corral(f"corral, turns {lease}", options, lease) for lease in ("auto", "off")]
    if options.llama_server:
        setups.append(llama_servers(options))
    found: dict[str, list[Round]] = {setup.name: [] for setup in setups}
    with ExitStack() as running:
        servers = {setup.name: running.enter_context(_running(setup)) for setup in setups}
        for setup in setups:
            _rates(setup.places, options)  # the first answers read weights from the disk
        for number in range(options.rounds):
            for setup in setups:
                wait_until_quiet(MOST_FOREIGN, options.wait)
                one = _measure(setup, servers[setup.name], options)
                if all(one.alone):  # else the machine stood still
                    found[setup.name].append(one)
                    said = f"round {number + 1}/{options.rounds} {setup.name}: {_said(one)}"
                    print(said, file=sys.stderr, flush=True)
    print(as_markdown(found, [model.stem for model in options.model]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.sharing", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-m", "--model", type=Path, action="append", required=True, metavar="FILE")
    parser.add_argument("--llama-server", type=Path, metavar="PATH")
    parser.add_argument("--streams", type=int, default=1, metavar="N", help="requests under way at once for each model")
    parser.add_argument("--seconds", type=float, default=5.0, help="that are counted of each load")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--wait", type=float, default=20, metavar="SECONDS", help="for a quiet moment before each run")
    parser.add_argument("-t", "--threads", type=int, default=_CORES, metavar="N")
    return parser


# ---- servers ----------------------------------------------------------------------------------


def corral(name: str, options: argparse.Namespace, lease: str) -> Setup:
    port = _free_port()
    models = [argument for model in options.model for argument in ("-m", str(model))]
    command = (sys.executable, "-m", "router", "serve", *models, *_sizes(options), "--port", str(port))
    places = tuple((f"http://127.0.0.1:{port}", model.stem) for model in options.model)
    return Setup(name, ((*command, "--core-lease", lease),), places)


def llama_servers(options: argparse.Namespace) -> Setup:
    ports = [_free_port() for _ in options.model]
    commands = tuple(
        (str(options.llama_server), "-m", str(model), *_sizes(options), "--port", str(port))
        for model, port in zip(options.model, ports, strict=True)
    )
    return Setup("llama-server each", commands, tuple((f"http://127.0.0.1:{port}", "any") for port in ports))


def _sizes(options: argparse.Namespace) -> tuple[str, ...]:
    return "-t", str(options.threads), "-c", "4096", "-np", str(max(options.streams, 1))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def _running(setup: Setup) -> Iterator[list[subprocess.Popen[bytes]]]:
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


# ---- rates ------------------------------------------------------------------------------------


def _measure(setup: Setup, servers: Sequence[subprocess.Popen[bytes]], options: argparse.Namespace) -> Round:
    own, everybody, started = _seconds_of(servers), _busy_seconds(), time.monotonic()
    alone = [_rates([place], options)[0] for place in setup.places]
    together = _rates(setup.places, options)
    elapsed, used = time.monotonic() - started, _seconds_of(servers) - own
    foreign = (_busy_seconds() - everybody - used) / (elapsed * _CORES)
    return Round(tuple(alone), tuple(together), max(foreign, 0.0))


def _rates(places: Sequence[tuple[str, str]], options: argparse.Namespace) -> list[float]:
    return uvloop.run(_drive(places, options.streams, options.seconds))


async def _drive(places: Sequence[tuple[str, str]], num_streams: int, seconds: float) -> list[float]:
    """Tokens a second of each place while all are busy."""
    begin = time.monotonic() + _SETTLE_SECONDS
    end = begin + seconds
    async with asyncio.TaskGroup() as group:
        users = [
            [group.create_task(_user(Target.of(url, _PATH), model, stream, end)) for stream in range(num_streams)]
            for url, model in places
        ]
    return [
        sum(tokens_between(one, begin, end) for user in of_place for one in user.result()) / seconds
        for of_place in users
    ]


async def _user(target: Target, model: str, stream: int, end: float) -> list[Exchange]:
    """Sends one request after the other until the end; the last one is read to its own."""
    found: list[Exchange] = []
    while time.monotonic() < end:
        words = prompt(1000 * stream + len(found), _PROMPT_WORDS, 0)
        body = {"model": model, "prompt": words, "max_tokens": _MAX_TOKENS, "temperature": 0, "ignore_eos": True,
                "stream": True, "stream_options": {"include_usage": True}}  # fmt: skip
        found.append(await exchange(target, body))
        if found[-1].fault:
            raise SystemExit(f"error: {model}: {found[-1].fault}")
    return found


def tokens_between(one: Exchange, begin: float, end: float) -> float:
    """The tokens of an exchange that arrived in that time, taking each event for as many as any other."""
    if not one.arrivals:
        return 0.0
    return one.num_generated * sum(begin <= arrival < end for arrival in one.arrivals) / len(one.arrivals)


def _seconds_of(servers: Sequence[subprocess.Popen[bytes]]) -> float:
    """Processor time of the servers, their workers and this process."""
    family = [psutil.Process(), *(psutil.Process(server.pid) for server in servers)]
    family += [child for server in family[1:] for child in server.children(recursive=True)]
    return float(sum(sum(process.cpu_times()[:2]) for process in family))


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


# ---- what the rounds say ----------------------------------------------------------------------


def as_markdown(found: dict[str, list[Round]], models: Sequence[str]) -> str:
    """Medians over the rounds in which others left the machine alone, or over all where there were none."""
    header = ["setup", *(f"{model} {kind}" for model in models for kind in ("alone", "together")), "share", "others"]
    lines = [f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1)]
    for name, every in found.items():
        if not every:
            continue
        rounds = [one for one in every if one.foreign <= MOST_FOREIGN] or every
        rates = [
            f"{statistics.median(getattr(one, kind)[i] for one in rounds):.1f}"
            for i in range(len(models))
            for kind in ("alone", "together")
        ]
        share = statistics.median(one.share for one in rounds)
        foreign = statistics.median(one.foreign for one in rounds)
        lines.append(f"| {name} | {' | '.join(rates)} | {share:.2f} | {foreign:.0%} |")
    return "\n".join(lines)


def _said(one: Round) -> str:
    rates = ", ".join(f"{both:.1f} of {alone:.1f}" for both, alone in zip(one.together, one.alone, strict=True))
    return f"{rates} t/s, share {one.share:.2f}, others {one.foreign:.0%}"


if __name__ == "__main__":
    raise SystemExit(main())
