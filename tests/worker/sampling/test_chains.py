"""Chains of any samplers, over any logits, beside the chain written slowly."""

import random
from typing import Any

import numpy as np
import pytest

from tests.naive_sampling import Twin
from worker.sampler import KERNELS, Sampler, SamplerState
from worker.sampling.settings import ALL_SAMPLERS, SAMPLERS, Sampling

LARGEST = 262144

for compiled in KERNELS:
    compiled.compile()


def logits_of(kind: str, size: int, seed: int) -> np.ndarray:
    numbers = np.random.default_rng(seed)
    logits = numbers.normal(0, 1.0 if kind == "flat" else 2.5, size)
    match kind:
        case "ties":
            logits = np.round(logits)
        case "equal":
            logits[:] = -3.25
        case "banned":
            logits[numbers.random(size) < 0.4] = -np.inf
            logits[numbers.integers(size)] = 1.0
        case "peaked":
            logits[numbers.integers(0, size, 9)] += numbers.normal(14, 3, 9)
        case "far apart":
            logits *= 30
    return logits.astype(np.float32)


KINDS = ("normal", "flat", "ties", "equal", "banned", "peaked", "far apart")


def any_settings(choose: random.Random) -> dict[str, Any]:
    """Every sampler is on about as often as off; numbers are not round, so that rounding decides nothing."""

    def maybe(low: float, high: float, off: float) -> float:
        return choose.uniform(low, high) if choose.random() < 0.5 else off

    order = choose.choice([SAMPLERS, choose.choices(ALL_SAMPLERS, k=choose.randint(1, 8))])
    return {
        "samplers": order,
        "temperature": maybe(0.3, 2.0, 1.0),
        "dynatemp_range": maybe(0.1, 0.6, 0.0),
        "dynatemp_exponent": maybe(0.5, 2.0, 1.0),
        "top_k": choose.choice([0, 0, 1, 40, 100, 300, 2000, 50000]),
        "top_p": maybe(0.05, 0.999, 1.0),
        "min_p": maybe(0.0001, 0.5, 0.0),
        "typical_p": maybe(0.1, 0.99, 1.0),
        "top_n_sigma": maybe(0.3, 4.0, -1.0),
        "xtc_probability": maybe(0.2, 1.0, 0.0),
        "xtc_threshold": maybe(0.0, 0.3, 0.1),
        "min_keep": choose.choice([0, 0, 1, 7, 1500]),
        "repeat_penalty": maybe(0.8, 1.4, 1.0),
        "frequency_penalty": maybe(-0.5, 0.5, 0.0),
        "repeat_last_n": choose.choice([-1, 8]),
        "dry_multiplier": maybe(0.2, 1.0, 0.0),
        "adaptive_target": choose.uniform(-0.3, 0.9),
        "mirostat": choose.choice([0, 0, 0, 0, 0, 0, 2]),
        "mirostat_tau": choose.uniform(1.0, 8.0),
    }


def check_tokens(kind: str, size: int, seed: int, settings: dict[str, Any], num_tokens: int) -> None:
    sampler, sampling = Sampler(size), Sampling(seed, **settings)
    state, twin = SamplerState(sampling), Twin(sampling)
    history = np.random.default_rng(seed).integers(0, min(size, 6), 30).tolist()
    for step in range(num_tokens):
        logits = logits_of(kind, size, seed + step)
        expected = twin.sample(logits, history)
        assert sampler.sample(logits, np.array(history, np.int32), state) == expected
        history.append(expected)
    assert state.memory.num_xtc_draws == twin.num_xtc_draws


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(12))
def test_any_chain_takes_the_tokens_of_the_chain_written_slowly(kind, seed):
    choose = random.Random(f"{kind} {seed}")
    size = choose.choice([1, 2, choose.randint(3, 200), choose.randint(1000, 1100), choose.randint(2000, 6000)])
    check_tokens(kind, size, seed, any_settings(choose), 5)


ALL_STAY = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}


@pytest.mark.parametrize(("kind", "settings"), [
    ("flat", {"top_k": 0}),
    ("flat", {"top_k": 5000}),
    ("flat", {**ALL_STAY, "xtc_probability": 1.0, "xtc_threshold": 0.0001, "dynatemp_range": 0.4}),
    ("peaked", {**ALL_STAY, "top_p": 0.95}),
    ("peaked", {**ALL_STAY, "typical_p": 0.7}),
    ("peaked", {**ALL_STAY, "dynatemp_range": 0.4}),
], ids=str)  # fmt: skip
def test_so_it_does_for_the_largest_vocabularies(kind, settings):
    check_tokens(kind, LARGEST, 5, settings, 1)


@pytest.mark.parametrize("mirostat_tau", [0.01, 1.0])
def test_mirostat_keeps_one_of_those_that_are_all_too_surprising(mirostat_tau):
    """Equal ones, too, of which it is the first."""
    sampler, state = Sampler(300), SamplerState(Sampling(1, mirostat=2, mirostat_tau=mirostat_tau))
    assert sampler.sample(np.zeros(300, np.float32), np.zeros(0, np.int32), state) == 0
