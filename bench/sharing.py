"""Two busy models on one machine: what each keeps of the speed it has alone, with turns, without, and in llama-servers.

    python -m bench.sharing -m A.gguf -m B.gguf [--llama-server PATH] [--streams 1] [--seconds 5] [--rounds 5]

All servers run from the start and idle while it is not their turn. A round measures, for every setup, each model alone
and then all together; its share is the sum over the models of (rate together / rate alone): 1.00 is a whole machine.
Invariant: the rates of a share are from the same round, and every stream is busy for the whole time that is counted.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import uvloop

from bench.engines import wait_until_quiet
from bench.load import prompt
from bench.peers import MOST_FOREIGN
from bench.servers import Foreign, Setup, corral, llama_servers, running
from bench.sse import Exchange, Target, exchange

_PATH = "/v1/completions"
_SETTLE_SECONDS = 0.5  # from the first request to the time that is counted
_PROMPT_WORDS, _MAX_TOKENS = 16, 128
_CORES = psutil.cpu_count() or 1


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
    sizes = ("-t", str(options.threads), "-c", "4096", "-np", str(max(options.streams, 1)))
    setups = [
        corral(f"corral, turns {lease}", options.model, (*sizes, "--core-lease", lease)) for lease in ("auto", "off")
    ]
    if options.llama_server:
        setups.append(llama_servers("llama-server each", options.llama_server, options.model, sizes))
    found: dict[str, list[Round]] = {setup.name: [] for setup in setups}
    with ExitStack() as stack:
        servers = {setup.name: stack.enter_context(running(setup)) for setup in setups}
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


# ---- rates ------------------------------------------------------------------------------------


def _measure(setup: Setup, servers: Sequence[subprocess.Popen[bytes]], options: argparse.Namespace) -> Round:
    foreign = Foreign(servers)
    alone = [_rates([place], options)[0] for place in setup.places]
    together = _rates(setup.places, options)
    return Round(tuple(alone), tuple(together), foreign.part())


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
