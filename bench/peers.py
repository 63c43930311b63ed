"""Corral beside llama.cpp and its relatives: same files, same threads, in turns, medians in one Markdown table.

    python -m bench.peers -m MODEL.gguf [-m ...] [--llama-bench PATH | --build] [--peer ik_llama.cpp=PATH]

Engines alternate (A B A B ...) so that a change of the machine's mood meets all of them. Invariant: a median is over
runs during which others left the machine alone; where there are none, the row is marked.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import limits, llama_cpp
from bench.engines import Engine, EngineFailed, Sample, run, wait_until_quiet
from worker.errors import WorkerError
from worker.gguf import GGUF

OURS = "corral"
LLAMA_CPP = "llama.cpp"
MOST_FOREIGN = 0.08  # of all processors' time; a run with more does not count if there are others
NOISY = " (noisy)"


@dataclass(frozen=True, slots=True)
class Weights:
    """What one token costs at least."""

    generated_bytes: int  # read for a generated token
    prompt_products: int  # multiply-adds for a prompt token, whose logits nobody wants


@dataclass(frozen=True, slots=True)
class Median:
    rate: float
    num_runs: int
    noisy: bool

    def __str__(self) -> str:
        return f"{self.rate:.0f}{NOISY if self.noisy else ''}"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        engines = _engines(options)
        samples, found = _measure(options, engines)
        weights = {model.name: weigh(model) for model in options.model}
    except (EngineFailed, WorkerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(limits_table(found))
    print(rates_table(samples, [engine.name for engine in engines], found, weights))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.peers", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-m", "--model", type=Path, action="append", required=True, metavar="FILE")
    parser.add_argument("--llama-bench", type=Path, metavar="PATH", help=f"or in {llama_cpp.ENVIRONMENT}")
    parser.add_argument("--build", action="store_true", help="compile llama.cpp into the cache folder if need be")
    parser.add_argument("--peer", type=_peer, action="append", default=[], metavar="NAME=PATH",
                        help="another llama-bench; flags may follow: NAME=PATH,-rtr,1")  # fmt: skip
    parser.add_argument("--without-corral", action="store_true", help="measure the others alone")
    parser.add_argument("-p", "--n-prompt", default="512", metavar="N")
    parser.add_argument("-n", "--n-gen", default="128", metavar="N")
    parser.add_argument("-d", "--n-depth", default="0", metavar="N")
    parser.add_argument("-t", "--threads", type=int, default=2, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of each engine")
    parser.add_argument("--wait", type=float, default=20, metavar="SECONDS", help="for a quiet moment before each run")
    return parser


def _peer(text: str) -> Engine:
    name, separator, rest = text.partition("=")
    path, *flags = rest.split(",")
    if not separator or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH of a llama-bench")
    return Engine(name, (path,), tuple(flags))


def _engines(options: argparse.Namespace) -> list[Engine]:
    binary = llama_cpp.build() if options.build else llama_cpp.find(options.llama_bench)
    if binary is None:
        raise EngineFailed("no llama-bench: give --llama-bench PATH, or --build to compile one")
    ours = [] if options.without_corral else [Engine(OURS, (sys.executable, "-m", "worker.bench"))]
    return [Engine(LLAMA_CPP, (str(binary),)), *options.peer, *ours]


def _measure(options: argparse.Namespace, engines: Sequence[Engine]) -> tuple[list[Sample], list[limits.Limits]]:
    """Round by round: every engine on every model, and the limits."""
    parameters = ["-p", options.n_prompt, "-n", options.n_gen, "-d", options.n_depth, "-t", str(options.threads)]
    samples: list[Sample] = []
    found: list[limits.Limits] = []
    for number in range(options.rounds):
        for model in options.model:
            wait_until_quiet(MOST_FOREIGN, options.wait)
            found += [limits.measure(model.stat().st_size, num) for num in sorted({1, options.threads})]
            for engine in engines:
                wait_until_quiet(MOST_FOREIGN, options.wait)
                new = run(engine, model, parameters)
                samples += new
                _say(number, options.rounds, new)
    return samples, found


def _say(number: int, num_rounds: int, samples: Iterable[Sample]) -> None:
    for s in samples:
        place = f"round {number + 1}/{num_rounds} {s.model} {s.engine}"
        print(f"{place} {s.test} {s.rate:.1f} t/s, others {s.foreign:.0%}", file=sys.stderr, flush=True)


# ---- what the samples say ---------------------------------------------------------------------


def weigh(path: Path) -> Weights:
    """A tied embedding is the head, and read; one that is not is only looked up."""
    with GGUF.open(path) as gguf:
        tied = "output.weight" not in gguf.tensors
        read = [tensor.data.nbytes for name, tensor in gguf.tensors.items() if tied or name != "token_embd.weight"]
        layers = [int(np.prod(tensor.shape)) for name, tensor in gguf.tensors.items() if name.startswith("blk.")]
    return Weights(sum(read), sum(layers))


def median(samples: Iterable[Sample]) -> Median | None:
    """Over the quiet runs, or over all where none was quiet."""
    every = list(samples)
    if not every:
        return None
    quiet = [sample for sample in every if sample.foreign <= MOST_FOREIGN]
    counted = quiet or every
    return Median(statistics.median(sample.rate for sample in counted), len(counted), not quiet)


def fastest(found: Iterable[limits.Limits], num_threads: int) -> limits.Limits:
    """The best that the machine showed: a limit is not undercut by noise."""
    same = [one for one in found if one.num_threads == num_threads]
    return limits.Limits(num_threads, max(one.read_bytes for one in same), max(one.products for one in same))


def ceiling(test: str, weights: Weights, limit: limits.Limits) -> float:
    """Tokens a second that no engine can pass; attention and cached keys are left out."""
    if test.startswith("pp"):
        return limit.products / weights.prompt_products
    return limit.read_bytes / weights.generated_bytes


def limits_table(found: Sequence[limits.Limits]) -> str:
    lines = ["| threads | read GB/s | int8 GMAC/s |", "|---:|---:|---:|"]
    for num_threads in sorted({one.num_threads for one in found}):
        best = fastest(found, num_threads)
        lines.append(f"| {num_threads} | {best.read_bytes / 1e9:.1f} | {best.products / 1e9:.0f} |")
    return "\n".join(lines) + "\n"


def rates_table(
    samples: Sequence[Sample], names: Sequence[str], found: Sequence[limits.Limits], weights: Mapping[str, Weights]
) -> str:
    """Tokens a second; behind ours, its ratio to each of the others."""
    others = [name for name in names if name != OURS]
    ratios = [f"{OURS} / {name}" for name in others] if OURS in names else []
    header = ["model", "test", *names, *ratios, "limit"]
    lines = [_line(header), "|---|---|" + "---:|" * (len(header) - 2)]
    best = fastest(found, max(one.num_threads for one in found))
    for model, test in dict.fromkeys((sample.model, sample.test) for sample in samples):
        of = {n: median(s for s in samples if (s.engine, s.model, s.test) == (n, model, test)) for n in names}
        cells = [str(of[name] or "") for name in names]
        times = [_ratio(of[OURS], of[name]) for name in others] if ratios else []
        lines.append(_line([model, test, *cells, *times, f"{ceiling(test, weights[model], best):.0f}"]))
    return "\n".join(lines) + "\n"


def _ratio(ours: Median | None, other: Median | None) -> str:
    if ours is None or other is None:
        return ""
    return f"{ours.rate / other.rate:.2f}{NOISY if ours.noisy or other.noisy else ''}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    raise SystemExit(main())
