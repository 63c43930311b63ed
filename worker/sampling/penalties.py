"""Samplers that lower the logits of tokens: biases, penalties of repetition, and DRY ("don't repeat yourself").

chain.py puts them in order. The history is the prompt and all tokens since. Invariant: a logit that was finite, or
minus infinity, is so afterwards.
"""

import math

import numpy as np

from worker.sampling.breakers import Breakers
from worker.sampling.candidates import Candidates, Ints
from worker.sampling.vocabulary import add_at, penalise, repeat_lengths
from worker.sampling.weights import Floats

_LOG_FLOAT_MAX = 88.7228391
_MOST = 1e30  # of a penalty


def add_biases(candidates: Candidates, tokens: Ints, biases: Floats) -> None:
    """Adds to the logits of these tokens, each of which is named once."""
    with candidates.by_token() as logits:
        add_at(logits, candidates.peaks, tokens, biases)


def _latest(history: Ints, num: int) -> Ints:
    """The last `num` tokens; below 0: all."""
    return history if num < 0 else history[max(history.size - num, 0) :]


def lower_repeated(
    candidates: Candidates, history: Ints, last_n: int, repeat: float, frequency: float, presence: float
) -> None:
    """Lowers the logits of the latest tokens: by a factor (Keskar et al. 2019, arXiv:1909.05858), once more for each
    time that one occurred, and once for all of them."""
    with candidates.by_token() as logits:
        penalise(logits, candidates.peaks, _latest(history, last_n), candidates.counts, repeat, frequency, presence)


def dry(
    candidates: Candidates,
    history: Ints,
    *,
    last_n: int,
    multiplier: float,
    base: float,
    allowed_length: int,
    breakers: Breakers,
) -> None:
    """Lowers tokens that would lengthen a repetition: by multiplier * base ** (its length - allowed_length). What
    comes before a breaker is not part of one."""
    window = _latest(history, last_n)
    if window.size <= allowed_length:
        return
    limit = breakers.tokens_since(window)
    if limit < allowed_length:
        return
    lengths = np.empty(window.size, np.int32)
    repeat_lengths(window, limit, lengths)
    ends = np.flatnonzero(lengths[:-1] >= allowed_length)
    if not ends.size:
        return
    ends = ends[[not breakers.breaks_alone(token) for token in window[ends + 1].tolist()]]
    tokens, places = np.unique(window[ends + 1], return_inverse=True)
    longest = np.zeros(tokens.size, np.int32)
    np.maximum.at(longest, places, lengths[ends])
    with candidates.by_token() as logits:
        add_at(logits, candidates.peaks, tokens, -_penalties(longest - allowed_length, multiplier, base))


def _penalties(exponents: Ints, multiplier: float, base: float) -> Floats:
    if base > 1.000001:
        exponents = np.minimum(exponents, int(_LOG_FLOAT_MAX / math.log(base)) or _LOG_FLOAT_MAX)
    return np.clip(multiplier * np.float64(base) ** exponents, -_MOST, _MOST).astype(np.float32)
