"""The Mersenne Twister, word for word std::mt19937, so that a seed means here what it means to llama-server.

The sampler draws from it, one generator per sequence. Invariant: a state follows from (seed, number of draws) alone,
which lets another replica go on where this one stopped.
"""

import numpy as np
from numba import uint32, uint64, void

from worker.kernels.jit import entry, kernel

SIZE = 624
STATE_SIZE = SIZE + 1  # the words, then the index of the next one
_SHIFT = 397
_UPPER = np.uint64(0x80000000)
_LOWER = np.uint64(0x7FFFFFFF)
_WORD = np.uint64(0xFFFFFFFF)
_MATRIX = np.uint64(0x9908B0DF)
_MULTIPLIER = np.uint64(1812433253)
_TEMPER_B = np.uint64(0x9D2C5680)
_TEMPER_C = np.uint64(0xEFC60000)
_ONE, _SEVEN, _ELEVEN, _FIFTEEN, _EIGHTEEN, _THIRTY = (np.uint64(n) for n in (1, 7, 11, 15, 18, 30))
_TWO_32 = 4294967296.0
_BELOW_ONE = float(np.nextafter(1.0, 0.0))


@kernel
def _refill(state):  # type: ignore[no-untyped-def]
    for i in range(SIZE):
        y = (np.uint64(state[i]) & _UPPER) | (np.uint64(state[(i + 1) % SIZE]) & _LOWER)
        word = np.uint64(state[(i + _SHIFT) % SIZE]) ^ (y >> _ONE)
        if y & _ONE:
            word ^= _MATRIX
        state[i] = np.uint32(word)
    state[SIZE] = 0


@kernel
def _next_word(state):  # type: ignore[no-untyped-def]
    if state[SIZE] >= SIZE:
        _refill(state)
    y = np.uint64(state[state[SIZE]])
    state[SIZE] += 1
    y ^= y >> _ELEVEN
    y ^= (y << _SEVEN) & _TEMPER_B
    y ^= (y << _FIFTEEN) & _TEMPER_C
    return y ^ (y >> _EIGHTEEN)


@entry(void(uint32[::1], uint64, uint64))
def start(state, seed, num_draws):  # type: ignore[no-untyped-def]
    """Sets `state` (STATE_SIZE words) to where a generator seeded with `seed` is after `num_draws` draws."""
    word = seed & _WORD
    state[0] = np.uint32(word)
    for i in range(1, SIZE):
        word = (_MULTIPLIER * (word ^ (word >> _THIRTY)) + np.uint64(i)) & _WORD
        state[i] = np.uint32(word)
    state[SIZE] = SIZE
    for _ in range(2 * num_draws):
        _next_word(state)


@kernel
def draw(state):  # type: ignore[no-untyped-def]
    """A number in [0, 1), as std::uniform_real_distribution<double> of libstdc++ makes it of two words."""
    low = float(_next_word(state))
    high = float(_next_word(state))
    return min((low + high * _TWO_32) / (_TWO_32 * _TWO_32), _BELOW_ONE)
