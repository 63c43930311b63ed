"""Numbers as memory has them: what is read and written is what numpy makes of the same bytes."""

import numpy as np
import pytest
from numba import types

from tests.worker.kernels.callers import compiled
from worker.kernels.jit import entry
from worker.kernels.memory import load, store, store_rows, store_scalar
from worker.kernels.number_formats import (
    load_each,
    load_from,
    load_number,
    load_numbers,
    scatter_numbers,
    store_numbers,
)


@entry(types.void(types.intp, types.intp))
def widen(x, out):
    """What 64 bytes at x are in formats that are not numpy's, and one number alone."""
    store(out, load_numbers("BF16", x))
    store(out + 64, load_numbers("I8", x))
    store(out + 128, load_numbers("E8M0", x))
    store(out + 192, load_numbers("LOW4", x))
    store(out + 256, load_numbers("HIGH4", x))
    store_scalar(out + 320, load_number("E8M0", x + 5))


@entry(types.void(types.intp, types.intp))
def narrow(x, out):
    """16 f32 at x, in the formats that are written, one after the other and apart."""
    store_numbers("F16", out, load(x))
    store_numbers("BF16", out + 32, load(x))
    scatter_numbers("F16", out + 64, 6, load(x))


@entry(types.void(types.intp, types.intp))
def widen_some(x, out):
    store_rows(out, 64, load_each("I8", x, 5, 3))
    store_rows(out + 192, 64, load_from("I8", (x + 40, x + 2), 7))


def test_numbers_at_several_places_are_those_of_each_place():
    data = np.random.default_rng(6).integers(-128, 128, 64).astype(np.int8)
    out = np.zeros((5, 16), np.float32)
    compiled(widen_some)(data.ctypes.data, out.ctypes.data)
    for number, place in enumerate((0, 5, 10, 47, 9)):
        np.testing.assert_array_equal(out[number], data[place : place + 16])


def widened(data: np.ndarray) -> np.ndarray:
    """(5, 16), and one more behind them."""
    out = np.zeros(81, np.float32)
    compiled(widen)(np.ascontiguousarray(data).ctypes.data, out.ctypes.data)
    return out


def test_every_format_is_read_as_the_numbers_it_stands_for():
    data = np.random.default_rng(5).integers(0, 256, 64).astype(np.uint8)
    data[1:32:2] &= 0xBF  # no bf16 is infinite or NaN
    out = widened(data)
    first = data[:16]
    expected = [
        (data[:32].view(np.uint16).astype(np.uint32) << 16).view(np.float32),
        first.view(np.int8),
        np.ldexp(np.float32(1), first.astype(int) - 128),
        (first & 15).astype(int) - 8,
        (first >> 4).astype(int) - 8,
    ]
    for number, row in enumerate(expected):
        np.testing.assert_array_equal(out[16 * number :][:16], row, err_msg=f"format {number}")
    assert out[80] == expected[2][5]


@pytest.mark.parametrize("first", range(0, 256, 16))
def test_every_exponent_of_a_byte_is_the_power_of_two_it_stands_for(first):
    exponents = np.arange(256, dtype=np.uint8)
    powers = np.ldexp(np.float32(1), np.arange(first, first + 16) - 128)
    np.testing.assert_array_equal(widened(np.resize(exponents[first:], 64))[32:48], powers)


def test_numbers_are_written_rounded_side_by_side_and_apart():
    x = np.random.default_rng(5).uniform(-120, 120, 16).astype(np.float32)
    out = np.zeros(160, np.uint8)
    compiled(narrow)(x.ctypes.data, out.ctypes.data)
    halves, bits = x.astype(np.float16), x.view(np.uint32)
    np.testing.assert_array_equal(out[:32].view(np.float16), halves)
    np.testing.assert_array_equal(out[32:64].view(np.uint16), (bits + 0x7FFF + (bits >> 16 & 1)) >> 16)
    apart = out[64:].view(np.uint16).reshape(16, 3)
    np.testing.assert_array_equal(apart[:, 0].view(np.float16), halves)
    assert not apart[:, 1:].any()
