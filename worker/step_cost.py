"""How long a step will take, learnt from how long steps took. The scheduler asks it for the size of a chunk.

    seconds = pace * (fixed + per_token * tokens + per_pair * pairs)

A pair is a token and a position it attends to. The three prices are fitted to the measured steps by least squares of
the relative error, none below zero; old steps fade. The pace follows the last few steps, for when others take the
processor away or give it back. Pure: the engine measures and tells. Invariant: a chunk's size decides
when something is computed, never what comes of it.
"""

import math
from dataclasses import dataclass

_FADE = 0.97  # what a step counts after the next one
_PACE_FADE = 0.7
_SWEEPS = 4  # of coordinate descent per step; it goes on from the last solution
_SURPRISE = 4.0  # a step that took more than this many times what was expected says more of the machine than of itself
_SCALES = (1.0, 1e-2, 1e-5)  # make the three unknowns of like size
_FIRST_GUESS = (4e-3, 1e-3, 1e-7)  # seconds


@dataclass(slots=True)
class Work:
    """What a step computes: tokens, and pairs of a token and a position it attends to."""

    num_tokens: int = 0
    num_pairs: int = 0

    def add(self, position: int, count: int) -> None:
        """`count` tokens from `position` on."""
        self.num_tokens += count
        self.num_pairs += count * position + count * (count + 1) // 2


class StepCost:
    """Owns the estimate."""

    def __init__(self) -> None:
        self._solution = [guess / scale for guess, scale in zip(_FIRST_GUESS, _SCALES, strict=True)]
        self._matrix = [[1e-3 * (i == j) for j in range(3)] for i in range(3)]
        self._right = [1e-3 * value for value in self._solution]
        self._pace = 1.0

    def seconds(self, work: Work) -> float:
        return self._pace * self._price(work)

    def observe(self, work: Work, seconds: float) -> None:
        """A step with this work took so long."""
        seconds = max(min(seconds, _SURPRISE * self.seconds(work)), 1e-6)
        self._fit(work, seconds)
        self._pace = _PACE_FADE * self._pace + (1 - _PACE_FADE) * seconds / self._price(work)

    def _fit(self, work: Work, seconds: float) -> None:
        row = [factor / seconds for factor in _factors(work)]
        for i in range(3):
            self._right[i] = _FADE * self._right[i] + row[i]
            for j in range(3):
                self._matrix[i][j] = _FADE * self._matrix[i][j] + row[i] * row[j]
        for _ in range(_SWEEPS):
            self._sweep()

    def fitting(self, work: Work, position: int, seconds: float) -> int:
        """The most tokens from `position` on that can join `work` in a step of `seconds`; 0 or more."""
        _, per_token, per_pair = (s * scale for s, scale in zip(self._solution, _SCALES, strict=True))
        rest = seconds / self._pace - self._price(work)
        if rest <= 0:
            return 0
        # per_pair / 2 * count^2 + linear * count = rest, solved without subtracting like numbers
        linear = per_token + per_pair * (position + 0.5)
        root = linear + math.sqrt(linear * linear + 2 * per_pair * rest)
        return int(2 * rest / root) if root > 2e-9 * rest else 1 << 30

    def _price(self, work: Work) -> float:
        price = sum(factor * value for factor, value in zip(_factors(work), self._solution, strict=True))
        return max(price, 1e-6)

    def _sweep(self) -> None:
        for i in range(3):
            others = sum(self._matrix[i][j] * self._solution[j] for j in range(3) if j != i)
            if self._matrix[i][i] > 0:
                self._solution[i] = max((self._right[i] - others) / self._matrix[i][i], 0.0)


def _factors(work: Work) -> tuple[float, float, float]:
    return _SCALES[0], _SCALES[1] * work.num_tokens, _SCALES[2] * work.num_pairs
