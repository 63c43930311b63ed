"""The slow twin of worker/sampler.py: llama-server's chain, one sampler after the other, candidate by candidate.

Tests hold the fast one against it. Candidates are [token, logit] in lists; nothing is shared with the fast one but the
settings. Invariant: written from the definitions, with no thought of speed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from worker.sampling.settings import Sampling

f32 = np.float32
Candidate = tuple[int, np.float32]


def words(seed: int):
    """std::mt19937."""
    state = np.random.RandomState(seed)
    while True:
        yield int(state.randint(0, 2**32, dtype=np.uint64))


@dataclass
class Twin:
    """One sequence's sampling; `sample` gives its next token, and leaves the candidates it chose from."""

    s: Sampling
    eog: Sequence[int] = ()
    breakers: Sequence[tuple[int, ...]] = ()  # DRY's, as tokens
    left: list[Candidate] = field(default_factory=list)
    num_draws: int = 0
    num_xtc_draws: int = 0

    def __post_init__(self) -> None:
        self._words, self._xtc_words = words(self.s.seed), words(self.s.seed)
        self._mu = 2 * self.s.mirostat_tau
        decay = min(max(self.s.adaptive_decay, 0.0), 0.99)
        self._sum, self._weight, self._decay = self.s.adaptive_target / (1 - decay), 1 / (1 - decay), decay

    def sample(self, logits: np.ndarray, history: Sequence[int]) -> int:
        s = self.s
        found = [(token, f32(logit)) for token, logit in enumerate(logits)]
        for token, bias in (*s.logit_bias, *[(token, -math.inf) for token in self.eog if s.ignore_eos]):
            found[token] = (token, f32(found[token][1] + f32(bias)))
        self.left, self._is_sorted = found, False
        if s.mirostat:
            self._divide(s.temperature)
            return self._mirostat()
        for name in s.samplers:
            if name != "adaptive_p":
                getattr(self, "_" + name)(list(history))
        return self._adaptive() if "adaptive_p" in s.samplers else self._pick(self.probabilities())

    def _uniform(self) -> float:
        self.num_draws += 1
        low, high = next(self._words), next(self._words)
        return (low + high * 2.0**32) / 2.0**64

    def _pick(self, probabilities: list[float]) -> int:
        target, reached = sum(probabilities) * self._uniform(), 0.0
        for (token, _), probability in zip(self.left, probabilities, strict=True):
            reached += probability
            if probability > 0 and reached >= target:
                return token
        raise AssertionError("the sum is not reached")

    def probabilities(self) -> list[float]:
        peak = max(logit for _, logit in self.left)
        weights = [math.exp(float(logit) - float(peak)) for _, logit in self.left]
        total = sum(weights)
        return [weight / total for weight in weights]

    def _sort(self) -> None:
        if not self._is_sorted:
            self.left.sort(key=lambda c: -c[1])
        self._is_sorted = True

    def _latest(self, history: list[int], num: int) -> list[int]:
        return history if num < 0 else history[max(len(history) - num, 0) :]

    def _penalties(self, history: list[int]) -> None:
        s = self.s
        if (s.repeat_penalty, s.presence_penalty, s.frequency_penalty) == (1, 0, 0):
            return
        window = self._latest(history, s.repeat_last_n)
        for i, (token, logit) in enumerate(self.left):
            if token in window:
                scaled = logit * f32(s.repeat_penalty) if logit <= 0 else logit / f32(s.repeat_penalty)
                cost = f32(window.count(token)) * f32(s.frequency_penalty) + f32(s.presence_penalty)
                self.left[i] = (token, f32(scaled - cost))
        self._is_sorted = False

    def _dry(self, history: list[int]) -> None:
        s = self.s
        window = self._latest(history, s.dry_penalty_last_n)
        if s.dry_multiplier == 0 or s.dry_base < 1 or len(window) <= s.dry_allowed_length:
            return
        limit = len(window)
        for num_after in range(len(window)):
            at = len(window) - 1 - num_after
            lengths = [len(b) for b in self.breakers if tuple(window[at : at + len(b)]) == b]
            if lengths:
                limit = num_after + 1 - max(lengths)
                break
        if limit < s.dry_allowed_length:
            return
        longest: dict[int, int] = {}
        for end in range(len(window) - 1):
            length = 0
            while length <= end and length < limit and window[end - length] == window[-1 - length]:
                length += 1
            if length >= s.dry_allowed_length:
                longest[window[end + 1]] = max(longest.get(window[end + 1], 0), length)
        for i, (token, logit) in enumerate(self.left):
            if token in longest and (token,) not in self.breakers:
                penalty = s.dry_multiplier * s.dry_base ** (longest[token] - s.dry_allowed_length)
                self.left[i] = (token, f32(logit - f32(penalty)))
        self._is_sorted = False

    def _top_n_sigma(self, _: list[int]) -> None:
        if self.s.top_n_sigma <= 0 or len(self.left) <= 1:
            return
        live = [float(logit) for _, logit in self.left if logit != -math.inf]
        mean = sum(live) / len(live)
        sigma = math.sqrt(sum((x - mean) ** 2 for x in live) / len(live))
        lowest = max(live) - self.s.top_n_sigma * sigma
        self.left = [(token, logit if logit >= lowest else f32(-math.inf)) for token, logit in self.left]
        self._sort()

    def _top_k(self, _: list[int]) -> None:
        if self.s.top_k > 0:
            self._sort()
            self.left = self.left[: self.s.top_k]

    def _top_p(self, _: list[int]) -> None:
        if self.s.top_p >= 1:
            return
        self._sort()
        mass, num = 0.0, 0
        for num, probability in enumerate(self.probabilities(), 1):
            mass += probability
            if mass >= self.s.top_p and num >= self.s.min_keep:
                break
        self.left = self.left[:num]

    def _min_p(self, _: list[int]) -> None:
        if self.s.min_p <= 0:
            return
        lowest = max(logit for _, logit in self.left) + f32(math.log(self.s.min_p))
        above = [c for c in self.left if c[1] >= lowest]
        if self._is_sorted or len(above) < self.s.min_keep:
            self._sort()
            above = self.left[: max(len(above), self.s.min_keep, 1)]
        self.left = above

    def _typ_p(self, _: list[int]) -> None:
        if self.s.typical_p >= 1:
            return
        self._sort()
        self.left = [c for c in self.left if c[1] > -math.inf]
        probabilities = self.probabilities()
        entropy = -sum(p * math.log(p) for p in probabilities if p > 0)
        order = sorted(range(len(probabilities)), key=lambda i: abs(-math.log(probabilities[i]) - entropy))
        mass, num = 0.0, 0
        for num, i in enumerate(order, 1):
            mass += probabilities[i]
            if mass > self.s.typical_p and num >= self.s.min_keep:
                break
        self.left, self._is_sorted = [self.left[i] for i in order[:num]], False

    def _xtc(self, _: list[int]) -> None:
        s = self.s
        if s.xtc_probability <= 0 or s.xtc_threshold > 0.5 or len(self.left) < 2:
            return
        self.num_xtc_draws += 1
        if f32(next(self._xtc_words)) / f32(2**32) > f32(s.xtc_probability):
            return
        self._sort()
        num_above = sum(p >= s.xtc_threshold for p in self.probabilities())
        if num_above > 1 and len(self.left) - (num_above - 1) >= s.min_keep:
            self.left = self.left[num_above - 1 :]

    def _temperature(self, _: list[int]) -> None:
        s = self.s
        if s.dynatemp_range <= 0:
            self._divide(s.temperature)
        elif len(self.left) > 1:
            self._sort()
            entropy = -sum(p * math.log(p) for p in self.probabilities() if p > 0)
            low, high = max(0.0, s.temperature - s.dynatemp_range), s.temperature + s.dynatemp_range
            self._divide(low + (high - low) * (entropy / math.log(len(self.left))) ** s.dynatemp_exponent)

    def _divide(self, temperature: float) -> None:
        if temperature <= 0:
            best = max(self.left, key=lambda c: c[1])
            self.left = [(token, logit if token == best[0] else f32(-math.inf)) for token, logit in self.left]
        else:
            self.left = [(token, logit / f32(temperature)) for token, logit in self.left]

    def _mirostat(self) -> int:
        s = self.s
        size = len(self.left)
        self._sort()
        probabilities = self.probabilities()
        if s.mirostat == 2:
            num = next((i for i, p in enumerate(probabilities) if p == 0 or -math.log2(p) > self._mu), size)
        else:
            pairs = list(pairwise(probabilities[:100]))
            steps = [math.log((i + 2) / (i + 1)) for i in range(len(pairs))]
            above = sum(t * math.log(p / q) for t, (p, q) in zip(steps, pairs, strict=True))
            exponent = above / sum(t * t for t in steps)
            epsilon = exponent - 1
            num = int((epsilon * 2**self._mu / (1 - size**-epsilon)) ** (1 / exponent))
        self.left = self.left[: max(num, 1)]
        probabilities = self.probabilities()
        token = self._pick(probabilities) if len(self.left) > 1 else self.left[0][0]
        chosen = probabilities[[c[0] for c in self.left].index(token)]
        self._mu -= s.mirostat_eta * (-math.log2(chosen) - s.mirostat_tau)
        return token

    def _adaptive(self) -> int:
        before = self.probabilities()
        if self.s.adaptive_target >= 0:
            target = min(max(2 * min(self.s.adaptive_target, 1.0) - self._sum / self._weight, 0.0), 1.0)
            for i, (token, logit) in enumerate(self.left):
                distance = abs(before[i] - target) / 0.3
                if logit > -math.inf:
                    self.left[i] = (token, f32(5 - 10 * distance * distance / (1 + distance)))
        token = self._pick(self.probabilities()) if len(self.left) > 1 else self.left[0][0]
        self._sum = before[[c[0] for c in self.left].index(token)] + self._decay * self._sum
        self._weight = 1 + self._decay * self._weight
        return token
