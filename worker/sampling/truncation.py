"""Samplers that leave out candidates: top-k, top-p, min-p, top-n-sigma, locally typical, XTC; and the temperature.

chain.py puts them in order. Each does to the candidates what llama-server's of the same name does, and keeps at least
one of them, and `min_keep` where that sampler knows it.
"""

import math

import numpy as np

from worker.sampling.candidates import Candidates
from worker.sampling.mt19937 import Generator

_NO_TEMPERATURE = 1e-20  # below it, dividing logits could overflow: the same as 0
_HIGHEST_TEMPERATURE = 1e20  # beyond it, all are alike anyway


def keep_top_k(candidates: Candidates, top_k: int) -> None:
    """The `top_k` most likely; all of them if it is 0 or less."""
    if top_k <= 0:
        return
    size = min(top_k, candidates.size)
    candidates.keep_largest(size)
    candidates.num_dead = size - candidates.num


def keep_top_p(candidates: Candidates, top_p: float, min_keep: int) -> None:
    """The most likely that together have that probability (Holtzman et al. 2019, arXiv:1904.09751)."""
    if top_p >= 1.0:
        return
    candidates.sort()
    candidates.keep_mass(top_p * candidates.weigh()[1], min_keep)
    _drop_dead(candidates, min_keep)


def _drop_dead(candidates: Candidates, min_keep: int) -> None:
    """Those without a chance stay only where there are too few others."""
    candidates.num_dead = max(min(candidates.num_dead, min_keep - candidates.num), 0)


def keep_min_p(candidates: Candidates, min_p: float, min_keep: int) -> None:
    """Those at least `min_p` times as likely as the most likely (Nguyen et al. 2024, arXiv:2407.01082)."""
    if min_p <= 0.0:
        return
    lowest = np.float32(candidates.peak) + np.float32(math.log(min_p))
    least = max(min_keep, 1)
    if (least > 1 or min_p > 1.0) and np.count_nonzero(candidates.logits >= lowest) < least:
        candidates.sort()
        candidates.keep_first(least)
    else:
        candidates.keep_from(float(lowest))
    _drop_dead(candidates, min_keep)


def keep_top_p_then_min_p(candidates: Candidates, top_p: float, min_p: float) -> None:
    """The one and then the other, if no number must be kept. Both keep those that come first, so the order matters to
    the mass alone; and where it ends need not be found among those that are too unlikely anyway."""
    candidates.sort()
    mass = top_p * candidates.weigh()[1]
    keep_min_p(candidates, min_p, min_keep=0)
    candidates.keep_mass(mass, min_keep=0)
    _drop_dead(candidates, min_keep=0)


def keep_top_n_sigma(candidates: Candidates, num_sigma: float) -> None:
    """Logits within that many standard deviations of the largest (Tang et al. 2024, arXiv:2411.07641). Tokens without
    a chance do not count; the others stay candidates, without one."""
    if num_sigma <= 0.0 or candidates.size <= 1:
        return
    size = candidates.size
    candidates.keep_from(candidates.peak - num_sigma * candidates.deviation())
    candidates.sort()
    candidates.num_dead = size - candidates.num


def keep_typical(candidates: Candidates, typical_p: float, min_keep: int) -> None:
    """Those whose surprise is nearest to the entropy, until they have that probability (Meister et al. 2022,
    arXiv:2202.00666); the most typical first."""
    if typical_p >= 1.0:
        return
    candidates.sort()
    candidates.keep_typical(typical_p, min_keep)
    _drop_dead(candidates, min_keep)


def exclude_top_choices(
    candidates: Candidates, probability: float, threshold: float, min_keep: int, generator: Generator
) -> None:
    """With that probability, drops all of those above the threshold but the least likely (XTC)."""
    if probability <= 0.0 or threshold > 0.5 or candidates.size < 2:
        return
    if generator.draw() > np.float32(probability):
        return
    candidates.sort()
    weights, total = candidates.weigh()
    above = np.flatnonzero(weights / np.float32(total) >= np.float32(threshold))
    if above.size > 1 and candidates.size - (above.size - 1) >= min_keep:
        candidates.drop_before(candidates.last_of(above))


def change_temperature(candidates: Candidates, temperature: float, spread: float, exponent: float) -> None:
    """Divides the logits. With a `spread`, by something that far around `temperature`, the higher the more even the
    candidates are; 0 or less leaves only the most likely one."""
    if spread > 0.0:
        if candidates.size <= 1:
            return
        temperature = _entropy_temperature(candidates, temperature, spread, exponent)
    if temperature > _NO_TEMPERATURE:
        candidates.divide(temperature)
    else:
        candidates.keep_best()


def _entropy_temperature(candidates: Candidates, temperature: float, spread: float, exponent: float) -> float:
    """Between temperature - spread and temperature + spread, by entropy ** exponent, a share of the most possible."""
    candidates.sort()
    share = candidates.entropy() / math.log(candidates.size)
    lowest = max(0.0, temperature - spread)
    with np.errstate(over="ignore", divide="ignore"):
        found = lowest + (temperature + spread - lowest) * np.float64(share) ** exponent
    return min(float(found), _HIGHEST_TEMPERATURE)
