"""Activations as the matrix products want them: int8 in blocks of 32, in tiles of tokens.

Tokens are cut into tiles, largest first, so that a product keeps a tile's sums in registers. A tile of c tokens lies as
    codes    [k / 32][c][32] int8
    factors  [k / 32][5][c]: scale, scale * sum of codes (f32), sum of codes, of the first 16, of the last 16 (i32)
A token's numbers depend on that token alone; only their address depends on the tile. Tiles for unpacked weights, where
there are such, come before all others, if at least two of them share what was unpacked.
"""

import numpy as np

from worker.kernels.codes import BLOCK
from worker.kernels.instruction_sets import INSTRUCTION_SET
from worker.kernels.jit import kernel, native
from worker.kernels.memory import load, store_i8, store_scalar, store_scalar_i32
from worker.kernels.simd import LANES, absolute, max_lanes, maximum, round_even, splat, sum_lanes_i32

FACTOR_BYTES = 20  # of a token and block

_LARGEST, _SMALLER = INSTRUCTION_SET.tile_sizes[0], INSTRUCTION_SET.tile_sizes[1:]
_UNPACKED = INSTRUCTION_SET.unpacked_tile


@kernel
def num_unpacked(num_tokens):
    """Tokens, the first ones, whose tiles take unpacked weights."""
    if _UNPACKED == 0 or num_tokens < 2 * _UNPACKED:
        return 0
    return num_tokens // _UNPACKED * _UNPACKED


@kernel
def tile_at(token, num_tokens):
    """(first token, size) of the tile that holds a token."""
    begin = num_unpacked(num_tokens)
    if token < begin:
        return token // _UNPACKED * _UNPACKED, _UNPACKED
    first = begin + (num_tokens - begin) // _LARGEST * _LARGEST
    if token < first:
        return begin + (token - begin) // _LARGEST * _LARGEST, _LARGEST
    for size in _SMALLER:
        while num_tokens - first >= size:
            if token < first + size:
                return first, size
            first += size
    return first, 1


@kernel
def quantize_block(low, high, codes, factors, size):
    """Writes one block of 32 values (two vectors) of one token, to its places in a tile of `size` tokens."""
    largest = max_lanes(maximum(absolute(low), absolute(high)))
    scale = largest / np.float32(127)
    inverse = splat(np.float32(127) / largest if largest > np.float32(0) else np.float32(0))
    low_codes, high_codes = round_even(low * inverse), round_even(high * inverse)
    store_i8(codes, low_codes)
    store_i8(codes + LANES, high_codes)
    first, last = sum_lanes_i32(low_codes), sum_lanes_i32(high_codes)
    total = first + last
    store_scalar(factors, scale)
    store_scalar(factors + 4 * size, scale * np.float32(total))
    store_scalar_i32(factors + 8 * size, total)
    store_scalar_i32(factors + 12 * size, first)
    store_scalar_i32(factors + 16 * size, last)


@kernel
def place(codes, factors, num_columns, token, num_tokens):
    """(address of the token's first codes, of its first factors, size of its tile) in the tiled buffers."""
    first, size = tile_at(token, num_tokens)
    within = token - first
    factors += first * (num_columns // BLOCK) * FACTOR_BYTES
    return codes + first * num_columns + BLOCK * within, factors + 4 * within, size


@native("iiiiii")
def quantize_row(values, num_columns, codes, factors, token, num_tokens):
    """Quantises f32 values [num_columns] of one token into the tiled buffers of all tokens."""
    code, factor, size = place(codes, factors, num_columns, token, num_tokens)
    for _ in range(num_columns // BLOCK):
        quantize_block(load(values), load(values + 4 * LANES), code, factor, size)
        values += 4 * BLOCK
        code += BLOCK * size
        factor += FACTOR_BYTES * size
