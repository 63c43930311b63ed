"""What choosing a token costs, chain by chain, for vocabularies of several sizes: a table of microseconds.

    python -m bench.sampling [--entries 49152,262144] [--chain NAME ...]

Called by people who change worker/sampling or ask what a setting costs them. The logits are made up: `text` has a few
likely tokens far above all others, as a model that knows how to go on; `flat` has hardly any, the worst there is for a
sampler that looks for the likely ones. Invariant: processor time, the best of several rounds, so that other programs on
the machine hardly show.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.sampler import KERNELS, Sampler, SamplerState
from worker.sampling.settings import Sampling

_ROUNDS = 7
_ROUND_SECONDS = 0.02
_NUM_ROWS = 4  # of logits, in turn: not everything is in the processor's caches
_HISTORY = 4000  # tokens
_ALL = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}  # every token stays

CHAINS: dict[str, dict[str, Any]] = {
    "default": {},
    "greedy": {"temperature": 0.0},
    "default, top_k 0": {"top_k": 0},
    "temperature": {**_ALL, "temperature": 0.8},
    "top_k 40": {**_ALL, "top_k": 40},
    "top_k 5000": {**_ALL, "top_k": 5000},
    "top_p 0.95": {**_ALL, "top_p": 0.95},
    "top_p 0.5": {**_ALL, "top_p": 0.5},
    "min_p 0.05": {**_ALL, "min_p": 0.05},
    "top_n_sigma 1": {**_ALL, "top_n_sigma": 1.0},
    "typical 0.95": {**_ALL, "typical_p": 0.95},
    "typical 0.5": {**_ALL, "typical_p": 0.5},
    "xtc": {**_ALL, "xtc_probability": 1.0, "xtc_threshold": 0.02},
    "dynatemp": {**_ALL, "dynatemp_range": 0.5},
    "adaptive_p": {**_ALL, "samplers": ("adaptive_p",), "adaptive_target": 0.4},
    "min_p, adaptive_p": {**_ALL, "samplers": ("min_p", "adaptive_p"), "min_p": 0.05, "adaptive_target": 0.4},
    "mirostat 1": {"mirostat": 1},
    "mirostat 2": {"mirostat": 2},
    "nothing": _ALL,
    "penalties, last 64": {"repeat_penalty": 1.1},
    "penalties, all": {"repeat_penalty": 1.1, "presence_penalty": 0.2, "repeat_last_n": -1},
    "dry, last 64": {"dry_multiplier": 0.8},
    "dry, all": {"dry_multiplier": 0.8, "dry_penalty_last_n": -1},
    "logit_bias": {"logit_bias": ((5, 1.0), (7, -100.0))},
    "all of them": {
        "repeat_penalty": 1.1, "dry_multiplier": 0.8, "top_n_sigma": 4.0, "top_k": 0, "typical_p": 0.95,
        "xtc_probability": 0.5, "xtc_threshold": 0.02, "dynatemp_range": 0.5,
    },
}  # fmt: skip
_LOGPROBS = {"n_probs 20": False, "n_probs 20, after": True}


def rows(kind: str, num_entries: int) -> npt.NDArray[np.float32]:
    """Logits, (_NUM_ROWS, num_entries)."""
    random = np.random.default_rng(1)
    logits = random.normal(0, 1.0 if kind == "flat" else 2.5, (_NUM_ROWS, num_entries))
    if kind == "text":
        likely = random.integers(0, num_entries, 50)
        logits[:, likely] += random.normal(15, 3, likely.size)
    return logits.astype(np.float32)


def chooser(settings: dict[str, Any], logits: npt.NDArray[np.float32], sampler: Sampler) -> Callable[[int], object]:
    """Chooses the token of a row."""
    state = SamplerState(Sampling(1, **settings))
    history = np.random.default_rng(2).integers(0, min(2000, logits.shape[1]), _HISTORY).astype(np.int32)
    return lambda i: sampler.sample(logits[i], history, state)


def with_logprobs(settings: dict[str, Any], logits: npt.NDArray[np.float32], sampler: Sampler, *, after: bool) -> Any:
    choose = chooser(settings, logits, sampler)

    def work(i: int) -> object:
        token: Any = choose(i)
        return sampler.logprob_after_sampling(20) if after else sampler.logprob(logits[i], token, 20)

    return work


def microseconds(work: Callable[[int], object]) -> float:
    """Processor time of one call, the best of some rounds."""
    for i in range(_NUM_ROWS):
        work(i)
    best = float("inf")
    for _ in range(_ROUNDS):
        began, num = time.process_time(), 0
        while (spent := time.process_time() - began) < _ROUND_SECONDS:
            for i in range(_NUM_ROWS):
                work(i)
            num += _NUM_ROWS
        best = min(best, spent / num)
    return best * 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.sampling", description="Measure what choosing a token costs.")
    parser.add_argument("--entries", default="49152,262144", metavar="N,N", help="of the vocabularies")
    parser.add_argument("--chain", action="append", choices=[*CHAINS, *_LOGPROBS], help="these alone")
    options = parser.parse_args(arguments)
    for kernel in KERNELS:
        kernel.compile()
    cases = [(kind, int(size)) for size in options.entries.split(",") for kind in ("text", "flat")]
    made = {case: (rows(*case), Sampler(case[1])) for case in cases}
    print("| us a token | " + " | ".join(f"{size}, {kind}" for kind, size in cases) + " |")
    print("|---|" + "---:|" * len(cases))
    for name in options.chain or [*CHAINS, *_LOGPROBS]:
        figures = []
        for logits, sampler in made.values():
            work = (
                with_logprobs({}, logits, sampler, after=_LOGPROBS[name])
                if name in _LOGPROBS
                else chooser(CHAINS[name], logits, sampler)
            )
            figures.append(f"{microseconds(work):.0f}")
        print(f"| {name} | " + " | ".join(figures) + " |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
