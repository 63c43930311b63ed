"""The Mersenne Twister drawn from as std::mt19937 is, so that a seed means here what it means to llama-server.

A sequence has one for its tokens and one for XTC. NumPy's own is the same generator, and its RandomState seeds it the
same way; only how words become numbers is written here. Invariant: a state follows from (seed, number of draws) alone,
which lets another replica go on where this one stopped.
"""

from typing import Any, Literal

import numpy as np

_TWO_32 = 4294967296.0
_BELOW_ONE = float(np.nextafter(1.0, 0.0))
_BELOW_ONE_32 = float(np.nextafter(np.float32(1), np.float32(0)))


class Generator:
    """A seeded generator and how often it was drawn from, in one of libstdc++'s two ways."""

    def __init__(self, seed: int, words_per_draw: Literal[1, 2], num_draws: int = 0) -> None:
        """`words_per_draw`: 2 for numbers of double precision, 1 for float's. Starts behind `num_draws` draws."""
        self.num_draws = num_draws
        self._words_per_draw = words_per_draw
        self._words = np.random.MT19937()
        seeded: Any = np.random.RandomState(seed).get_state(legacy=False)
        self._words.state = seeded
        self._words.random_raw(words_per_draw * num_draws, output=False)

    def draw(self) -> float:
        """A number in [0, 1), as std::uniform_real_distribution makes it of one word or of two."""
        self.num_draws += 1
        if self._words_per_draw == 1:
            return min(float(np.float32(self._words.random_raw())) / _TWO_32, _BELOW_ONE_32)
        low, high = self._words.random_raw(2).tolist()
        return float(min((low + high * _TWO_32) / (_TWO_32 * _TWO_32), _BELOW_ONE))
