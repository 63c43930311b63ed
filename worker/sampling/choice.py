"""The last sampler of a chain, which takes one of the candidates: by chance, or by chance and a memory of the past.

chain.py picks one for each sequence. Invariant: who draws, and when, is as in llama-server, so that a seed gives the
same tokens from the same logits: `Drawn` draws for every token, the others only where there are two candidates.
"""

import math
from typing import Protocol

import numpy as np

from worker.sampling.candidates import Candidates
from worker.sampling.mt19937 import Generator
from worker.sampling.settings import Memory, Sampling

_NUM_ESTIMATED = 100  # tokens from which Mirostat reads the exponent of Zipf's law
_INT32_MAX = 2**31 - 1

# Adaptive-p's curve around its target: https://github.com/ggml-org/llama.cpp/pull/17927
_CURVE = np.array([1 / 0.3, 5.0, 10.0], np.float32)  # 1 / width, peak, sharpness
_LONGEST_DECAY = 0.99


class Choice(Protocol):
    """Takes a candidate; its index. What it changes of a Memory, `remember` tells."""

    def take(self, candidates: Candidates) -> int: ...

    def remember(self, memory: Memory) -> Memory: ...


class Best:
    """The most likely one."""

    def take(self, candidates: Candidates) -> int:
        candidates.keep_best()
        return 0

    def remember(self, memory: Memory) -> Memory:
        return memory


class Drawn:
    """One by chance."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def take(self, candidates: Candidates) -> int:
        return candidates.draw(self._generator.draw())

    def remember(self, memory: Memory) -> Memory:
        return memory._replace(num_draws=self._generator.num_draws)


class Mirostat:
    """Steers the surprise of the text towards tau: Basu et al. 2020, arXiv:2007.14966, and its second version, which
    needs no estimate."""

    def __init__(self, sampling: Sampling, generator: Generator, memory: Memory) -> None:
        self._generator = generator
        self._tau, self._eta = np.float32(sampling.mirostat_tau), np.float32(sampling.mirostat_eta)
        mu = 2.0 * sampling.mirostat_tau if memory.mirostat_mu is None else memory.mirostat_mu
        self._mu = np.float32(mu)
        self._keep = self._keep_by_estimate if sampling.mirostat == 1 else self._keep_by_surprise

    def take(self, candidates: Candidates) -> int:
        if candidates.is_whole:
            self._keep(candidates)
        weights, total = candidates.weigh()
        index = candidates.draw(self._generator.draw()) if candidates.num > 1 else 0
        surprise = -np.log2(weights[index] / np.float32(total))
        self._mu -= self._eta * (surprise - self._tau)
        return index

    def remember(self, memory: Memory) -> Memory:
        return memory._replace(num_draws=self._generator.num_draws, mirostat_mu=float(self._mu))

    def _keep_by_estimate(self, candidates: Candidates) -> None:
        """As many as, by Zipf's law, have a surprise of mu together."""
        size = candidates.num
        logits = candidates.largest(min(_NUM_ESTIMATED, size))
        steps = np.log(np.arange(2, logits.size + 1) / np.arange(1, logits.size))
        with np.errstate(all="ignore"):
            exponent = np.dot(steps, -np.diff(logits)) / np.dot(steps, steps)
            epsilon = np.float64(exponent - 1.0)
            num = (epsilon * 2.0 ** np.float64(self._mu) / (1.0 - np.float64(size) ** -epsilon)) ** (1.0 / exponent)
        # llama-server makes an int of it, which is the lowest one for what is none.
        candidates.keep_largest(min(max(int(num), 1), size) if abs(num) <= _INT32_MAX else 1)

    def _keep_by_surprise(self, candidates: Candidates) -> None:
        """Those whose own surprise is at most mu, or the most likely one."""
        _, total = candidates.weigh()
        lowest = candidates.peak + math.log(total) - float(self._mu) * math.log(2.0)
        if lowest > candidates.peak:
            candidates.keep_best()
        else:
            candidates.keep_from(lowest)
            candidates.sort()


class AdaptiveP:
    """Prefers candidates whose probability is near a target, which moves against the average of those taken lately."""

    def __init__(self, sampling: Sampling, generator: Generator, memory: Memory) -> None:
        self._generator = generator
        self._target = np.float32(min(sampling.adaptive_target, 1.0))
        self._decay = np.float32(min(max(sampling.adaptive_decay, 0.0), _LONGEST_DECAY))
        weight = np.float32(1) / (np.float32(1) - self._decay)
        start = (float(self._target * weight), float(weight))
        self._sum, self._weight = (np.float32(number) for number in memory.adaptive or start)

    def take(self, candidates: Candidates) -> int:
        weights, total = candidates.weigh()
        if self._target >= 0:
            target = np.clip(2 * self._target - self._sum / self._weight, 0, 1, dtype=np.float32)
            candidates.favour(target, _CURVE)
        index = candidates.draw(self._generator.draw()) if candidates.size > 1 else 0
        self._sum = weights[index] / np.float32(total) + self._decay * self._sum
        self._weight = np.float32(1) + self._decay * self._weight
        return index

    def remember(self, memory: Memory) -> Memory:
        return memory._replace(num_draws=self._generator.num_draws, adaptive=(float(self._sum), float(self._weight)))
