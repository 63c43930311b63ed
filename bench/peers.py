"""Corral beside llama.cpp and its relatives: same files, same threads, in turns, medians in one Markdown table.

    python -m bench.peers -m MODEL.gguf [-m ...] [--llama-bench PATH | --build] [--peer ik_llama.cpp=PATH]

Engines alternate (A B A B ...) so that a change of the machine's mood meets all of them. A run that fails is told and
left out. Invariant: every engine gets the same parameters; what differs is its settings, of which its best counts.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench import limits, llama_cpp
from bench.ceiling import weigh
from bench.engines import Engine, EngineFailed, Sample, run, run_batched, wait_until_quiet
from bench.tables import MOST_FOREIGN, as_json, compare, limits_table, rates_table
from worker.errors import WorkerError

OURS = "corral"
LLAMA_CPP = "llama.cpp"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        engines = _engines(options)
        weights = {model.name: weigh(model) for model in options.model}
        samples, found = _measure(options, engines)
    except (EngineFailed, WorkerError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rows = compare(samples, found, weights)
    print(limits_table(found))
    print(rates_table(rows, list(dict.fromkeys(engine.name for engine in engines)), OURS))
    if options.json:
        options.json.write_text(as_json(rows, samples, found), "utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.peers",
        description="Measure corral beside llama.cpp.",
        epilog="A peer given twice with different flags is measured with both; the better one counts.",
    )
    parser.add_argument("-m", "--model", type=Path, action="append", required=True, metavar="FILE")
    parser.add_argument("--llama-bench", type=Path, metavar="PATH", help=f"or in {llama_cpp.ENVIRONMENT}")
    parser.add_argument("--build", action="store_true", help="compile llama.cpp into the cache folder if need be")
    parser.add_argument("--peer", type=_peer, action="append", default=[], metavar="NAME=PATH",
                        help="another llama-bench; flags may follow: NAME=PATH,-rtr,1")  # fmt: skip
    parser.add_argument("--without-corral", action="store_true", help="measure the others alone")
    parser.add_argument("-p", "--n-prompt", default="512", metavar="N")
    parser.add_argument("-n", "--n-gen", default="128", metavar="N")
    parser.add_argument("-d", "--n-depth", default="0", metavar="N,N", help="tokens of context before the test")
    parser.add_argument("-npl", "--parallel", type=int, default=16, metavar="N",
                        help="sequences at once, for S_TG; 0: none (default: 16)")  # fmt: skip
    parser.add_argument("-t", "--threads", type=int, default=2, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of each engine")
    parser.add_argument("--wait", type=float, default=20, metavar="SECONDS", help="for a quiet moment before each run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table and every sample there")
    return parser


def _peer(text: str) -> Engine:
    name, separator, rest = text.partition("=")
    path, *flags = rest.split(",")
    if not separator or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH of a llama-bench")
    return _engine(name, Path(path), *flags)


def _engine(name: str, binary: Path, *flags: str) -> Engine:
    batched = binary.with_name("llama-batched-bench")
    return Engine(name, (str(binary),), (str(batched),) if batched.is_file() else (), flags)


def _engines(options: argparse.Namespace) -> list[Engine]:
    binary = llama_cpp.build() if options.build else llama_cpp.find(options.llama_bench)
    if binary is None:
        raise EngineFailed("no llama-bench: give --llama-bench PATH, or --build to compile one")
    ours = (sys.executable, "-m", "worker.bench")
    return [
        *(_engine(LLAMA_CPP, binary, "-fa", setting) for setting in ("0", "1")),
        *options.peer,
        *([] if options.without_corral else [Engine(OURS, ours, (*ours, "--batched"))]),
    ]


def _measure(options: argparse.Namespace, engines: Sequence[Engine]) -> tuple[list[Sample], list[limits.Limits]]:
    """Round by round: every engine on every model, and the limits."""
    samples: list[Sample] = []
    found: list[limits.Limits] = []
    for number in range(options.rounds):
        for model in options.model:
            wait_until_quiet(MOST_FOREIGN, options.wait)
            found += [limits.measure(model.stat().st_size, num) for num in sorted({1, options.threads})]
            for engine in engines:
                wait_until_quiet(MOST_FOREIGN, options.wait)
                new = list(_samples(options, engine, model))
                samples += new
                _say(number, options.rounds, new)
    if not samples:
        raise EngineFailed("no run succeeded")
    return samples, found


def _samples(options: argparse.Namespace, engine: Engine, model: Path) -> Iterator[Sample]:
    """One run of llama-bench and one of llama-batched-bench; peers are known to crash in the one or the other."""
    parameters = ["-p", options.n_prompt, "-n", options.n_gen, "-t", str(options.threads)]
    if options.n_depth != "0":  # which a fork without -d has no word for
        parameters += ["-d", options.n_depth]
    try:
        yield from run(engine, model, parameters)
        if options.parallel:
            yield from run_batched(engine, model, options.parallel, options.threads)
    except EngineFailed as error:
        print(f"left out: {error}", file=sys.stderr, flush=True)


def _say(number: int, num_rounds: int, samples: Iterable[Sample]) -> None:
    for s in samples:
        place = f"round {number + 1}/{num_rounds} {s.model} {s.engine} {s.setting}".rstrip()
        print(f"{place} {s.test} {s.rate:.1f} t/s, others {s.foreign:.0%}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
