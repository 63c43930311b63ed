"""The integer product: every kind of code, block by block and bit by bit."""

from functools import lru_cache

import numpy as np
import pytest
from numba import types

from tests.worker.kernels.callers import compiled
from worker.kernels.codes import CODES
from worker.kernels.dots import (
    UNPACKED_BYTES,
    begin_unpacked,
    block_dot,
    end_unpacked,
    takes_unpacked,
    unpack_block,
)
from worker.kernels.instruction_sets import INSTRUCTION_SET
from worker.kernels.jit import Entry, entry
from worker.kernels.memory import room, store_rows
from worker.kernels.panels import FORMATS
from worker.kernels.simd import to_float

COUNTS = sorted({*INSTRUCTION_SET.tile_sizes, INSTRUCTION_SET.unpacked_tile or 1, 3})
BIASES = {format.code: format.bias for format in sorted(FORMATS.values(), key=lambda each: each.bias) if format.code}
ACTIVATIONS = {"lowest": -127, "highest": 127, "nothing": 0}

every_code = pytest.mark.parametrize("name", CODES)
every_count = pytest.mark.parametrize("count", COUNTS)


@lru_cache
def block_dots(name: str, bias: int, count: int) -> Entry:
    """Writes the dots of the whole block, of its first and of its second half.

    sums: those of activations, of the first half, the second and the whole.
    """

    unpacks = takes_unpacked(count)

    @entry(types.void(types.intp, types.intp, types.intp, types.intp))
    def block_dots(panel, x, sums, out):  # all sums are below 2^24: exact
        last, u = sums + 4 * count, room(UNPACKED_BYTES)
        whole = last + 4 * count
        if unpacks:
            begin_unpacked()
            unpack_block(name, bias, panel, u)
        store_rows(out, 64, to_float(block_dot(name, bias, 0, 8, 1, count, panel, 0, u, x, whole)))
        store_rows(out + 64 * count, 64, to_float(block_dot(name, bias, 0, 4, 1, count, panel, 0, u, x, sums)))
        store_rows(out + 128 * count, 64, to_float(block_dot(name, bias, 4, 8, 1, count, panel, 0, u, x, last)))
        if unpacks:
            end_unpacked()

    return compiled(block_dots)


def packed(name: str, codes: np.ndarray) -> np.ndarray:
    """(16, 32) codes -> bytes of a block, as codes.py draws them, bit by bit."""
    block = np.zeros((CODES[name].bits, 16, 4), np.uint8)  # (vectors, rows, k of the quad)
    for row, k in np.ndindex(16, 32):
        quad, first = k // 4, 0
        for plane in CODES[name].planes:
            bits = codes[row, k] >> plane.position & (1 << plane.bits) - 1
            per_vector = 8 // plane.bits
            block[first + quad // per_vector, row, k % 4] |= bits << plane.bits * (quad % per_vector)
            first += plane.bits
    return block


def assert_dots_are_exact(name: str, codes: np.ndarray, x: np.ndarray) -> None:
    """(16, 32) codes, (tokens, 32) activations; without a bias and with that of some format."""
    count, panel = len(x), packed(name, codes)
    activations = x.astype(np.int8)
    sums = np.array([x[:, :16].sum(1), x[:, 16:].sum(1), x.sum(1)], np.int32)
    out = np.empty((3, count, 16), np.float32)
    for bias in {0, BIASES[name]}:
        if takes_unpacked(count) and CODES[name].largest - bias > 127:
            continue  # no format has it
        block_dots(name, bias, count)(panel.ctypes.data, activations.ctypes.data, sums.ctypes.data, out.ctypes.data)
        values = np.array(CODES[name].table or range(256))[codes] - bias
        np.testing.assert_array_equal(out[0], x @ values.T)
        np.testing.assert_array_equal(out[1], x[:, :16] @ values[:, :16].T)
        np.testing.assert_array_equal(out[2], x[:, 16:] @ values[:, 16:].T)


@every_count
@every_code
def test_random_blocks_multiply_exactly(name, count):
    rng = np.random.default_rng(count)
    for _ in range(10):
        codes, x = rng.integers(0, 1 << CODES[name].bits, (16, 32)), rng.integers(-127, 128, (count, 32))
        assert_dots_are_exact(name, codes, x)


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
@every_count
@every_code
def test_no_sum_of_the_largest_values_and_activations_saturates(name, count, activation):
    largest = np.argmax(CODES[name].table) if CODES[name].table else CODES[name].largest
    assert_dots_are_exact(name, np.full((16, 32), largest), np.full((count, 32), activation))


@every_count
@every_code
def test_each_code_meets_its_own_activation_row_and_token(name, count):
    """One activation at a time, and every code different from its neighbours: a pair in the wrong place shows."""
    for k in range(32):
        codes = (np.arange(16)[:, None] * 5 + np.arange(32) * 3) % (1 << CODES[name].bits)
        x = np.zeros((count, 32), int)
        x[k % count, k] = -127
        assert_dots_are_exact(name, codes, x)


@pytest.mark.parametrize("name", [name for name, code in CODES.items() if code.table])
def test_every_code_of_a_table_stands_for_its_value(name):
    codes = (np.arange(16)[:, None] + np.arange(32)) % 16
    assert_dots_are_exact(name, codes, np.eye(32, dtype=int)[:1] * 127)
