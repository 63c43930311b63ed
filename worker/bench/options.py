"""llama-bench's command line: its flags, its lists and ranges of values, and the trials that they make together.

Called by __main__.py; batched.py shares the values. Invariant: a flag is obeyed, answered with a note (IGNORED), or
refused.
"""

import argparse
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.bench.loading import Setup
from worker.bench.workload import Trial
from worker.values import MOST_THREADS, Real, Whole

FORMATS = ("md", "json", "jsonl", "csv", "sql")

# Parameters that multiply, in the order of the tests: the last one changes fastest.
DEFAULTS: Mapping[str, Sequence[Any]] = {
    "model": (), "n_batch": (2048,), "n_ubatch": (512,), "type_k": ("f16",), "type_v": ("f16",), "n_threads": (0,),
    "n_depth": (0,), "n_prompt": (512,), "n_gen": (128,), "prompt_and_gen": (),
}  # fmt: skip

# Of llama-bench, each with a value: about devices, threads and memory, never about what is computed.
IGNORED: Sequence[Sequence[str]] = (
    ("-fa", "--flash-attn"), ("-ngl", "--n-gpu-layers"), ("-ncmoe", "--n-cpu-moe"), ("-sm", "--split-mode"),
    ("-mg", "--main-gpu"), ("-nkvo", "--no-kv-offload"), ("-dev", "--device"), ("-ts", "--tensor-split"),
    ("-ot", "--override-tensor"), ("-nopo", "--no-op-offload"), ("--no-host",), ("--repack",), ("-rtr",),
    ("-C", "--cpu-mask"), ("--cpu-strict",), ("--poll",), ("--prio",), ("--numa",), ("-mmp", "--mmap"),
    ("-lm", "--load-mode"), ("-lzm", "--lazy-mode"), ("-fitt", "--fit-target"), ("-fitc", "--fit-ctx"),
)  # fmt: skip

_RANGE = re.compile(r"(\d+)(?:-(\d+)(?:([+*])(\d+))?)?")
_MOST_VALUES = 1000


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of the report."""

    model: Path
    setup: Setup
    trial: Trial


def numbers(text: str) -> list[int]:
    """`16,32-128*2,200-400+100` -> every value. `first-last` counts by one."""
    found: list[int] = []
    for part in text.split(","):
        if not (match := _RANGE.fullmatch(part)):
            raise argparse.ArgumentTypeError(f"{part!r} is not N, FIRST-LAST, FIRST-LAST+STEP or FIRST-LAST*FACTOR")
        found += _expand(part, int(match[1]), int(match[2] or match[1]), match[3] or "+", int(match[4] or 1))
    return found


def _expand(text: str, first: int, last: int, operation: str, operand: int) -> list[int]:
    values = [first]
    while (after := values[-1] + operand if operation == "+" else values[-1] * operand) <= last:
        if after <= values[-1] or len(values) == _MOST_VALUES:
            raise argparse.ArgumentTypeError(f"{text!r} does not reach {last} in {_MOST_VALUES} values")
        values.append(after)
    return values


def counts(text: str) -> list[int]:
    """Numbers of which none is zero."""
    if 0 in (found := numbers(text)):
        raise argparse.ArgumentTypeError(f"{text!r} has a zero, the least is 1")
    return found


def thread_counts(text: str) -> list[int]:
    if max(found := numbers(text)) > MOST_THREADS:
        raise argparse.ArgumentTypeError(f"{max(found)} is not between 0 and {MOST_THREADS}")
    return found


def words(text: str) -> list[str]:
    return text.split(",")


def paths(text: str) -> list[Path]:
    return [Path(part) for part in text.split(",")]


def _pair(text: str) -> list[tuple[int, int]]:
    if not re.fullmatch(r"\d+,\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not PROMPT,GENERATED")
    prompt, generated = map(int, text.split(","))
    return [(prompt, generated)]


class _Note(argparse.Action):
    """A flag without effect: its name is kept, so that the user is told."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: object, option: Any = None) -> None:
        namespace.without_effect = [*namespace.without_effect, option]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="corral bench",
        allow_abbrev=False,
        description="Measure prompt reading (pp) and generation (tg) with llama-bench's flags.",
        epilog="Several values: 128,512 or 128-512+128 or 128-512*2, or the flag again. "
        "--batched measures many sequences at once (--batched --help).",
    )

    def several(*names: str, to: str, type: Callable[[str], object], metavar: str = "N", help: str = "") -> None:
        shown = ",".join(map(str, DEFAULTS[to])) or "none"
        required = to == "model"
        told = help if required else f"{help} (default: {shown})"
        made.add_argument(*names, dest=to, type=type, action="extend", required=required, metavar=metavar, help=told)

    several("-m", "--model", to="model", type=paths, metavar="FILE", help="GGUF file")
    several("-p", "--n-prompt", to="n_prompt", type=numbers, help="tokens of a prompt; 0: no such test")
    several("-n", "--n-gen", to="n_gen", type=numbers, help="tokens generated; 0: no such test")
    several("-pg", to="prompt_and_gen", type=_pair, metavar="PP,TG", help="both in one test")
    several("-d", "--n-depth", to="n_depth", type=numbers, help="tokens of context before the test")
    several("-b", "--batch-size", to="n_batch", type=counts, help="tokens of a batch")
    several("-ub", "--ubatch-size", to="n_ubatch", type=counts, help="tokens of a step; the smaller of the two counts")
    several("-ctk", "--cache-type-k", to="type_k", type=words, metavar="TYPE", help="type of cached keys")
    several("-ctv", "--cache-type-v", to="type_v", type=words, metavar="TYPE", help="type of cached values")
    several("-t", "--threads", to="n_threads", type=thread_counts, help="threads; 0: one for each usable core")
    made.add_argument("-r", "--repetitions", type=Whole(least=1), default=5, metavar="N",
                      help="of each test (default: 5)")  # fmt: skip
    made.add_argument("-o", "--output", choices=FORMATS, default="md", help="format (default: md)")
    made.add_argument("--delay", type=Real(0), default=0, metavar="SECONDS", help="between tests")
    made.add_argument("--no-warmup", action="store_true", help="measure from the first run on")
    made.add_argument("-v", "--verbose", "--progress", dest="progress", action="store_true", help="tell what is done")
    for names in IGNORED:
        made.add_argument(*names, action=_Note, nargs=1, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    made.set_defaults(without_effect=[])
    return made


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Ends the process with status 2 and one line for what cannot be understood."""
    options = parser().parse_args(arguments)
    for name, values in DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, list(values))
    return options


def plan(options: argparse.Namespace) -> list[Measurement]:
    """As llama-bench orders them: of each combination the prompts, the generations, then both."""
    pairs = [(num, 0) for num in options.n_prompt] + [(0, num) for num in options.n_gen] + options.prompt_and_gen
    combinations = itertools.product(*(getattr(options, name) for name in list(DEFAULTS)[:-3]))
    return [
        Measurement(model, Setup(num_threads, key_type, value_type), Trial(prompt, generated, depth, 1, batch, ubatch))
        for model, batch, ubatch, key_type, value_type, num_threads, depth in combinations
        for prompt, generated in pairs
        if prompt or generated
    ]
