"""`corral bench --batched`: many sequences at once, in the flags and columns of llama-batched-bench.

For each prompt length, answer length and number of sequences B: all prompts are read together, then each step generates
one token of every sequence. Invariant: rates count the tokens of all B sequences.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from worker.bench.loading import Loaded, Setup, loaded, say, status_of
from worker.bench.options import counts, numbers, paths
from worker.bench.workload import Trial, measure_phases
from worker.errors import InvalidRequest
from worker.values import MOST_THREADS, Whole

Row = Mapping[str, Any]

_WARM_UP = Trial(num_prompt=16, num_generated=1)
_WIDTHS = (6, 6, 4, 6, 8, 8, 8, 8, 8, 8)
_TITLES = ("PP", "TG", "B", "N_KV", "T_PP s", "S_PP t/s", "T_TG s", "S_TG t/s", "T s", "S t/s")


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    return status_of(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    trials = _trials(options)
    wanted = Setup(options.threads, options.cache_type_k, options.cache_type_v)
    for model in options.model:
        with loaded(model, wanted, say) as found:
            for text in FORMATS[options.output](_rows(found, trials, options.ctx_size)):
                print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="corral bench --batched",
        allow_abbrev=False,
        description="Measure prompts (S_PP) and generation (S_TG) of several sequences at once.",
    )
    parser.add_argument("-m", "--model", type=paths, required=True, metavar="FILE")
    parser.add_argument("-npp", "-p", "--n-prompt", dest="npp", type=counts, default=[128], metavar="N,N",
                        help="prompt lengths (default: 128)")  # fmt: skip
    parser.add_argument("-ntg", "-n", "--n-gen", dest="ntg", type=numbers, default=[128], metavar="N,N",
                        help="answer lengths (default: 128)")  # fmt: skip
    parser.add_argument("-npl", type=counts, default=[1, 2, 4, 8, 16, 32], metavar="N,N",
                        help="sequences at once (default: 1,2,4,8,16,32)")  # fmt: skip
    parser.add_argument("-c", "--ctx-size", type=Whole(), default=0, metavar="N",
                        help="positions of all sequences together; what needs more is left out")  # fmt: skip
    parser.add_argument("-b", "--batch-size", type=Whole(least=1), default=2048, metavar="N")
    parser.add_argument("-ub", "--ubatch-size", type=Whole(least=1), default=512, metavar="N")
    parser.add_argument("-t", "--threads", type=Whole(MOST_THREADS), default=0, metavar="N")
    parser.add_argument("-ctk", "--cache-type-k", default="f16", metavar="TYPE")
    parser.add_argument("-ctv", "--cache-type-v", default="f16", metavar="TYPE")
    parser.add_argument("-o", "--output", "--output-format", choices=FORMATS, default="md")
    return parser


def _trials(options: argparse.Namespace) -> list[Trial]:
    """In the peer's order. Raises InvalidRequest if none fits the context asked for."""
    every = [
        Trial(prompt, generated, 0, parallel, options.batch_size, options.ubatch_size)
        for prompt, generated, parallel in itertools.product(options.npp, options.ntg, options.npl)
    ]
    fitting = [trial for trial in every if not options.ctx_size or trial.num_tokens <= options.ctx_size]
    if not fitting:
        least = min(trial.num_tokens for trial in every)
        raise InvalidRequest(f"a context of {options.ctx_size} positions is too small, the least test needs {least}")
    return fitting


def _rows(model: Loaded, trials: Sequence[Trial], context: int) -> Iterator[Row]:
    model.reserve(
        num_blocks=max(trial.num_blocks * trial.num_parallel for trial in trials),
        max_tokens=max(trial.step_tokens for trial in trials),
        max_sequences=max(trial.num_parallel for trial in trials),
    )
    largest = max(trial.num_tokens for trial in trials)
    measure_phases(model.decoder, _WARM_UP)
    for trial in trials:
        say(f"PP {trial.num_prompt} TG {trial.num_generated} B {trial.num_parallel}")
        prompt_ns, generation_ns = measure_phases(model.decoder, trial)
        say("")
        shared = {"n_kv_max": context or largest, "n_threads": model.decoder.num_threads}
        yield row(shared, trial, prompt_ns * 1e-9, generation_ns * 1e-9)


def row(shared: Row, trial: Trial, prompt_seconds: float, generation_seconds: float) -> dict[str, Any]:
    """One line in the peer's fields."""
    num_prompt = trial.num_prompt * trial.num_parallel
    num_generated = trial.num_generated * trial.num_parallel
    seconds = prompt_seconds + generation_seconds
    return {
        "n_kv_max": shared["n_kv_max"],
        "n_batch": trial.num_batch,
        "n_ubatch": trial.num_ubatch,
        "flash_attn": -1,
        "is_pp_shared": 0,
        "n_gpu_layers": -1,
        "n_threads": shared["n_threads"],
        "n_threads_batch": shared["n_threads"],
        "pp": trial.num_prompt,
        "tg": trial.num_generated,
        "pl": trial.num_parallel,
        "n_kv": trial.num_tokens,
        "t_pp": prompt_seconds,
        "speed_pp": num_prompt / prompt_seconds,
        "t_tg": generation_seconds,
        "speed_tg": num_generated / generation_seconds if num_generated else 0.0,
        "t": seconds,
        "speed": trial.num_tokens / seconds,
    }


def _markdown(rows: Iterator[Row]) -> Iterator[str]:
    for place, one in enumerate(rows):
        if place == 0:
            yield _line(title.rjust(width) for title, width in zip(_TITLES, _WIDTHS, strict=True))
            yield "|" + "|".join("-" * (width + 2) for width in _WIDTHS) + "|"
        cells = [str(one[name]) for name in ("pp", "tg", "pl", "n_kv")]
        for phase in ("_pp", "_tg", ""):
            cells += [f"{one[f't{phase}']:.3f}", f"{one[f'speed{phase}']:.2f}"]
        yield _line(cell.rjust(width) for cell, width in zip(cells, _WIDTHS, strict=True))


def _line(cells: Iterator[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _json_lines(rows: Iterator[Row]) -> Iterator[str]:
    for one in rows:
        yield orjson.dumps(one).decode()


FORMATS = {"md": _markdown, "jsonl": _json_lines}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
