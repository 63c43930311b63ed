"""What users feel of one busy server, beside llama-server in the same run: many streams, a long prompt among them, a
common prefix, clients that leave.

    python -m bench.serving -m MODEL.gguf [--llama-server PATH] [--rounds 3] [--only streams,stall,prefix,leavers]

All servers run from the start and idle while it is not their turn; every scenario is run on each of them in turns.
Invariant: figures that are compared come from the same rounds, and every request asks for the same work.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import uvloop

from bench.engines import wait_until_quiet
from bench.load import percentile, prompt
from bench.peers import MOST_FOREIGN
from bench.servers import Foreign, Setup, corral, llama_servers, running
from bench.sse import Exchange, Target, exchange

_PATH = "/v1/completions"
_NUM_STREAMS, _PROMPT_WORDS, _MAX_TOKENS = 8, 120, 128
_LONG_WORDS = 5900
_SHARED_WORDS, _NUM_SHARING = 1000, 16
_NUM_LEAVERS, _LEAVE_SECONDS, _LEAVERS_TOKENS = 200, 0.5, 1000
_CORES = psutil.cpu_count() or 1

Figures = dict[str, float]  # by what they say
Server = tuple[Target, str]  # where, and which model
_numbers = count(1)  # of prompts, so that none is like one before


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    sizes = ("-t", str(options.threads), "-c", "8192", "-np", "16")
    setups = [corral("corral", [options.model], sizes)]
    if options.llama_server:
        setups.append(llama_servers("llama-server", options.llama_server, [options.model], (*sizes, "-kvu")))
    found: dict[str, list[Figures]] = {setup.name: [] for setup in setups}
    with ExitStack() as stack:
        servers = {setup.name: stack.enter_context(running(setup)) for setup in setups}
        for number in range(options.rounds + 1):  # the first one warms up
            for setup in setups:
                wait_until_quiet(MOST_FOREIGN, options.wait)
                figures = _round(setup, servers[setup.name], options.only)
                if number:
                    found[setup.name].append(figures)
                    said = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
                    print(f"round {number}/{options.rounds} {setup.name}: {said}", file=sys.stderr, flush=True)
    print(as_markdown(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.serving", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-m", "--model", type=Path, required=True, metavar="FILE")
    parser.add_argument("--llama-server", type=Path, metavar="PATH")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--only", type=_names, default=tuple(_SCENARIOS), metavar="NAMES", help="some, by comma")
    parser.add_argument("--wait", type=float, default=20, metavar="SECONDS", help="for a quiet moment before each run")
    parser.add_argument("-t", "--threads", type=int, default=_CORES, metavar="N")
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in _SCENARIOS:
            raise argparse.ArgumentTypeError(f"no scenario '{name}'; there are {', '.join(_SCENARIOS)}")
    return names


def _round(setup: Setup, servers: Sequence[subprocess.Popen[bytes]], names: Sequence[str]) -> Figures:
    url, model = setup.places[0]
    foreign, figures = Foreign(servers), Figures()
    for name in names:
        figures |= uvloop.run(_SCENARIOS[name]((Target.of(url, _PATH), model)))
    return figures | {"others, %": foreign.part() * 100}


# ---- scenarios --------------------------------------------------------------------------------


async def _streams(server: Server) -> Figures:
    """8 streams of 128 tokens after 128."""
    began = time.monotonic()
    every = await asyncio.gather(*(_ask(server, _PROMPT_WORDS, _MAX_TOKENS) for _ in range(_NUM_STREAMS)))
    tokens = sum(one.num_generated for one in every)
    return {f"{_NUM_STREAMS} streams, tokens/s": tokens / (time.monotonic() - began)}


async def _stall(server: Server) -> Figures:
    """What a stream that runs feels while a prompt of nearly 6000 tokens is read."""
    stream = asyncio.create_task(_ask(server, _PROMPT_WORDS, 1500))
    await asyncio.sleep(0.5)
    long = await _ask(server, _LONG_WORDS, 1)
    one = await stream
    begin, end = long.started, long.arrivals[0] if long.arrivals else long.ended
    gaps = sorted(late - early for early, late in pairwise(one.arrivals) if late > begin and early < end)
    calm = sorted(late - early for early, late in pairwise(one.arrivals) if late <= begin or early >= end)
    return {
        "gap in a stream beside a long prompt, p99, ms": percentile(gaps, 99) * 1000,
        "same, median, ms": percentile(gaps, 50) * 1000,
        "same, without the prompt, median, ms": percentile(calm, 50) * 1000 if calm else 0.0,
        "long prompt read, s": end - begin,
    }


async def _prefix(server: Server) -> Figures:
    """16 requests, all at once, whose first 1000 tokens one before them had."""
    salt = next(_numbers)
    cold = await _ask(server, _SHARED_WORDS + 20, 1, shared=_SHARED_WORDS, salt=salt)
    warm = await asyncio.gather(
        *(_ask(server, _SHARED_WORDS + 20, 1, shared=_SHARED_WORDS, salt=salt) for _ in range(_NUM_SHARING))
    )
    alone = await _ask(server, _SHARED_WORDS + 20, 1, shared=_SHARED_WORDS, salt=salt)
    waits = [one.arrivals[0] - one.started for one in warm]
    return {
        "first token, cold, ms": (cold.arrivals[0] - cold.started) * 1000,
        "same, prefix read before, ms": (alone.arrivals[0] - alone.started) * 1000,
        "same, 16 at once, median, ms": statistics.median(waits) * 1000,
    }


async def _leavers(server: Server) -> Figures:
    """200 clients that leave after half a second, and then a request like any other."""

    async def leave() -> None:
        try:
            async with asyncio.timeout(_LEAVE_SECONDS):
                await _ask(server, _PROMPT_WORDS, _LEAVERS_TOKENS, faults=True)
        except TimeoutError:
            pass

    await asyncio.gather(*(leave() for _ in range(_NUM_LEAVERS)))
    one = await _ask(server, _PROMPT_WORDS, 16)
    return {f"answer after {_NUM_LEAVERS} clients left, ms": (one.ended - one.started) * 1000}


_SCENARIOS: dict[str, Callable[[Server], Awaitable[Figures]]] = {
    "streams": _streams,
    "stall": _stall,
    "prefix": _prefix,
    "leavers": _leavers,
}


async def _ask(
    server: Server, num_words: int, max_tokens: int, *, shared: int = 0, salt: int = 0, faults: bool = False
) -> Exchange:
    """A greedy request of full length with a prompt of its own."""
    target, model = server
    words = prompt(next(_numbers), num_words, shared)
    body: dict[str, Any] = {
        "model": model, "prompt": f"{salt} {words}" if shared else words, "max_tokens": max_tokens, "temperature": 0,
        "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    one = await exchange(target, body)
    if one.fault and not faults:
        raise SystemExit(f"error: {target.authority}: {one.fault}")
    return one


# ---- what the rounds say ----------------------------------------------------------------------


def as_markdown(found: dict[str, list[Figures]]) -> str:
    """Medians over the rounds, a column for each server."""
    lines = [f"| | {' | '.join(found)} |", "|---|" + "---:|" * len(found)]
    for name in _rows(found):
        cells = (f"{statistics.median(round[name] for round in rounds):.4g}" for rounds in found.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rows(found: dict[str, list[Figures]]) -> Iterator[str]:
    return iter(next(iter(found.values()))[0])


if __name__ == "__main__":
    raise SystemExit(main())
