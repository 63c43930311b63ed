"""Logits to a token: llama-server's sampler chain in its order, with its defaults and its generator.

    logit bias -> penalties -> top-k -> top-p -> min-p -> temperature -> draw

The engine owns one Sampler (scratch memory) and each sequence a SamplerState. Invariant: the token follows from the
logits, the tokens so far, the settings, the seed and the number of draws made, and from nothing else.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import float32, float64, int32, int64, uint32

from worker.candidates import GROUP, NUM_LANES, exp_sum, largest, select_top, survey
from worker.errors import InvalidRequest, WorkerError
from worker.kernels.jit import entry, kernel
from worker.mt19937 import STATE_SIZE, draw, start

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]

# Places in a SamplerState's settings.
_TEMPERATURE, _TOP_K, _TOP_P, _MIN_P, _MIN_KEEP, _REPEAT, _PRESENCE, _FREQUENCY, _LAST_N = range(9)

# What the kernels return instead of a token.
_NOT_FINITE = -1
_NOTHING_LEFT = -2

_LARGEST = np.float32(np.finfo(np.float32).max)
_NO_TEMPERATURE = 1e-30  # below it, dividing logits would overflow: the same as 0
_FIRST_SORT = 256  # candidates sorted at first for a top-p over the whole vocabulary


class BrokenLogits(WorkerError):
    """The model computed something that is not a number."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a request wants its tokens chosen; the defaults are llama-server's."""

    seed: int
    temperature: float = 0.8  # 0 or less: the most likely token, no draw
    top_k: int = 40  # 0 or less: all
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_last_n: int = 64  # below 0: all tokens
    logit_bias: tuple[tuple[int, float], ...] = ()
    ignore_eos: bool = False
    min_keep: int = 0


@dataclass(frozen=True, slots=True)
class Logprob:
    """Natural logarithms of the model's own probabilities: of the token chosen and of the most likely ones."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class SamplerState:
    """What one sequence's sampling depends on besides its tokens."""

    __slots__ = ("bias_tokens", "bias_values", "generator", "num_draws", "settings", "takes_draws")

    def __init__(self, sampling: Sampling, eog_ids: Collection[int] = (), num_draws: int = 0) -> None:
        biases = sampling.logit_bias
        if sampling.ignore_eos:
            biases += tuple((token, -math.inf) for token in sorted(eog_ids))
        self.bias_tokens = np.array([token for token, _ in biases], np.int32)
        self.bias_values = np.array([bias for _, bias in biases], np.float32)
        self.settings = _settings(sampling)
        self.takes_draws = bool(self.settings[_TEMPERATURE] > _NO_TEMPERATURE)
        self.num_draws = num_draws
        self.generator = np.empty(STATE_SIZE, np.uint32)
        start(self.generator, sampling.seed, num_draws)


def _settings(sampling: Sampling) -> npt.NDArray[np.float64]:
    penalised = sampling.repeat_penalty != 1.0 or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
    settings = np.zeros(9, np.float64)
    settings[_TEMPERATURE] = sampling.temperature
    settings[_TOP_K] = sampling.top_k
    settings[_TOP_P] = sampling.top_p
    settings[_MIN_P] = sampling.min_p
    settings[_MIN_KEEP] = sampling.min_keep
    settings[_REPEAT] = sampling.repeat_penalty
    settings[_PRESENCE] = sampling.presence_penalty
    settings[_FREQUENCY] = sampling.frequency_penalty
    settings[_LAST_N] = sampling.repeat_last_n if penalised else 0
    return settings


class Sampler:
    """Chooses tokens. Owns scratch memory of the vocabulary's size; one thread at a time."""

    def __init__(self, vocab_size: int) -> None:
        self._floats = np.zeros((3, vocab_size), np.float32)
        self._ints = np.zeros((4, vocab_size), np.int32)
        self._lanes = np.zeros(NUM_LANES, np.float64)

    def sample(self, logits: FloatArray, history: IntArray, state: SamplerState) -> int:
        """The next token after `history`, from its row of logits. Raises BrokenLogits, InvalidRequest."""
        token: int = sample_row(
            logits, history, state.settings, state.bias_tokens, state.bias_values, state.generator,
            self._floats, self._ints, self._lanes,
        )  # fmt: skip
        if token < 0:
            raise _failure(token)
        state.num_draws += state.takes_draws
        return token

    def logprob(self, logits: FloatArray, token: int, num_top: int) -> Logprob:
        """Log probabilities of the unmodified logits. Raises BrokenLogits."""
        num_top = min(num_top, logits.size)
        log_total: float = rank_row(logits, num_top, self._floats, self._ints, self._lanes)
        if math.isnan(log_total):
            raise _failure(_NOT_FINITE)
        ids, picked = self._ints[0, :num_top].tolist(), self._floats[1, :num_top].tolist()
        top = tuple((other, _finite(value - log_total)) for other, value in zip(ids, picked, strict=True))
        return Logprob(token, _finite(float(logits[token]) - log_total), top)


def _finite(logprob: float) -> float:
    return max(logprob, -float(_LARGEST))


def _failure(code: int) -> WorkerError:
    if code == _NOTHING_LEFT:
        return InvalidRequest("Field 'logit_bias': it leaves no token to choose from")
    return BrokenLogits("the model computed logits that are not numbers")


@kernel
def _adjust(values, history, settings, bias_tokens, bias_values, counts):  # type: ignore[no-untyped-def]
    """Logit bias, then penalties for the tokens in the window. `counts` is all zeros before and after."""
    for i in range(bias_tokens.size):
        values[bias_tokens[i]] = min(values[bias_tokens[i]] + bias_values[i], _LARGEST)
    last_n = int(settings[_LAST_N])
    first = max(0, history.size - last_n) if last_n >= 0 else 0
    for i in range(first, history.size):
        counts[history[i]] += 1
    repeat = np.float32(settings[_REPEAT])
    for i in range(first, history.size):
        token = history[i]
        if counts[token] > 0:
            logit = values[token] * repeat if values[token] <= 0 else values[token] / repeat
            logit -= np.float32(counts[token]) * np.float32(settings[_FREQUENCY]) + np.float32(settings[_PRESENCE])
            # Not min and max: they would swallow a NaN.
            if logit > _LARGEST:
                logit = _LARGEST
            values[token] = logit
            counts[token] = 0


@kernel
def _num_unsorted(values, best, min_p, ids, picked):  # type: ignore[no-untyped-def]
    """Min-p alone needs no sort: candidates stay in the vocabulary's order, as llama-server has them."""
    lowest = values[best] + np.float32(math.log(min_p)) if min_p > 0.0 else np.float32(-np.inf)
    num = 0
    for token in range(values.size):
        if values[token] >= lowest:
            ids[num] = token
            picked[num] = values[token]
            num += 1
    return num


@kernel
def _num_to_top_p(picked, peak, mass, min_keep):  # type: ignore[no-untyped-def]
    """How many of the candidates, likeliest first, hold the mass together; one more than there are if they do not."""
    cumulated = np.float32(0.0)
    for i in range(picked.size):
        cumulated += np.float32(math.exp(picked[i] - peak))
        if cumulated >= mass and i + 1 >= min_keep:
            return i + 1
    return picked.size + 1


@kernel
def _num_to_min_p(picked, num, min_p, min_keep):  # type: ignore[no-untyped-def]
    lowest = picked[0] + np.float32(math.log(min_p))
    for i in range(1, num):
        if picked[i] < lowest and i >= min_keep:
            return i
    return num


@kernel
def _candidates(values, peaks, best, settings, floats, ints, lanes):  # type: ignore[no-untyped-def]
    """Top-k, top-p and min-p: fills ids and logits of the candidates, in llama-server's order; returns how many."""
    ids, picked, probabilities = ints[0], floats[1], floats[2]
    top_k, top_p, min_p, min_keep = settings[_TOP_K], settings[_TOP_P], settings[_MIN_P], settings[_MIN_KEEP]
    num = int(min(top_k, values.size))
    if top_k <= 0:
        if top_p >= 1.0:
            num = _num_unsorted(values, best, min_p, ids, picked)
            if num >= min_keep:
                return num
        num = min(int(max(min_keep, _FIRST_SORT)), values.size)
    while True:
        select_top(values, peaks, num, ids, picked, ints[1])
        if top_p >= 1.0:
            break
        pool = picked[:num] if top_k > 0 else values
        mass = np.float32(top_p * exp_sum(pool, values[best], probabilities, ints[1], lanes))
        kept = _num_to_top_p(picked[:num], values[best], mass, min_keep)
        if kept <= num or top_k > 0 or num == values.size:
            num = min(kept, num)
            break
        num = values.size
    if min_p > 0.0:
        num = _num_to_min_p(picked, num, min_p, min_keep)
    return num


@kernel
def _draw(candidates, temperature, peak, generator, floats, ints, lanes):  # type: ignore[no-untyped-def]
    """The first candidate at which the running sum of probabilities reaches the drawn share of the whole."""
    ids, probabilities = ints[0], floats[2]
    for i in range(candidates.size):
        candidates[i] /= temperature
    target = exp_sum(candidates, peak / temperature, probabilities, ints[1], lanes) * draw(generator)
    reached, last = 0.0, 0
    for i in range(candidates.size):
        if probabilities[i] > 0.0:
            reached += probabilities[i]
            last = i
            if reached >= target:
                break
    return ids[last]


@entry(
    int64(
        float32[::1], int32[::1], float64[::1], int32[::1], float32[::1], uint32[::1],
        float32[:, ::1], int32[:, ::1], float64[::1],
    )
)  # fmt: skip
def sample_row(logits, history, settings, bias_tokens, bias_values, generator, floats, ints, lanes):  # type: ignore[no-untyped-def]
    """The chain for one row. floats: adjusted logits, picked, probabilities; ints: ids, powers, peaks, counts."""
    values = logits
    if bias_tokens.size > 0 or settings[_LAST_N] != 0:
        values = floats[0]
        for token in range(logits.size):
            values[token] = logits[token]
        _adjust(values, history, settings, bias_tokens, bias_values, ints[3])
    peaks = ints[2, : (values.size + GROUP - 1) // GROUP]
    if not survey(values, peaks):
        return _NOT_FINITE
    best = largest(values, peaks)
    if values[best] == -np.inf:
        return _NOTHING_LEFT
    if not settings[_TEMPERATURE] > _NO_TEMPERATURE:
        return best
    num = _candidates(values, peaks, best, settings, floats, ints, lanes)
    return _draw(floats[1, :num], np.float32(settings[_TEMPERATURE]), values[best], generator, floats, ints, lanes)


@entry(float64(float32[::1], int64, float32[:, ::1], int32[:, ::1], float64[::1]))
def rank_row(logits, num_top, floats, ints, lanes):  # type: ignore[no-untyped-def]
    """Puts the `num_top` largest logits into floats[1] and their tokens into ints[0]; returns log(sum(exp(logits)))."""
    peaks = ints[2, : (logits.size + GROUP - 1) // GROUP]
    if not survey(logits, peaks):
        return np.nan
    select_top(logits, peaks, num_top, ints[0], floats[1], ints[1])
    peak = logits[largest(logits, peaks)]
    return peak + math.log(exp_sum(logits, peak, floats[2], ints[1], lanes))


KERNELS = (start, sample_row, rank_row)  # to be compiled before the first request
