"""SIMD values: operations lane by lane are those of numpy."""

import numpy as np
import pytest
from numba import types

from tests.worker.kernels.callers import compiled
from worker.kernels import simd
from worker.kernels.jit import entry
from worker.kernels.memory import load, store


@entry(types.void(types.intp, types.intp, types.intp))
def lane_operations(x, y, out):
    """Operations on the vectors at x and y, 16 f32 each, stored 64 bytes from one another."""
    a, b = load(x), load(y)
    store(out, a + b)
    store(out + 64, a - b)
    store(out + 128, a * b)
    store(out + 192, a / b)
    store(out + 256, simd.fma(a, b, a))
    store(out + 320, simd.absolute(a))
    store(out + 384, simd.to_float(simd.round_even(a)))
    store(out + 448, simd.where_below(a, b, b, a))
    store(out + 512, simd.select_below(np.int32(5), a, b))
    store(out + 576, simd.splat(simd.sum_lanes(a)))
    store(out + 640, simd.to_float(simd.shift_left(simd.round_even(a), 3) + simd.splat_i32(-7)))
    store(out + 704, simd.maximum(a, b))
    store(out + 768, simd.splat(simd.max_lanes(a)))


def in_lanes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    out = np.full((13, 16), 99, np.float32)
    compiled(lane_operations)(x.ctypes.data, y.ctypes.data, out.ctypes.data)
    return out


def test_lanewise_operations_are_those_of_numpy():
    rng = np.random.default_rng(3)
    x, y = rng.uniform(-99, 99, 16).astype(np.float32), rng.uniform(1, 9, 16).astype(np.float32)
    x[:6] = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5]  # halves go to the even neighbour
    halves = x.copy()
    for width in (8, 4, 2, 1):
        halves = halves[:width] + halves[width:]
    out = in_lanes(x, y)
    fused = (x.astype(np.float64) * y + x).astype(np.float32)  # exact in float64, so rounded once
    expected = [
        x + y, x - y, x * y, x / y, fused, np.abs(x), np.rint(x), np.where(x < y, y, x),
        np.where(np.arange(16) < 5, x, y), np.full(16, halves[0]), np.rint(x) * 8 - 7, np.maximum(x, y),
        np.full(16, x.max()),
    ]  # fmt: skip
    for number, row in enumerate(expected):
        np.testing.assert_array_equal(out[number], row.astype(np.float32), err_msg=f"operation {number}")


@pytest.mark.parametrize("lane", [0, 5, 15])
def test_a_maximum_passes_nan_on_from_either_side_and_any_lane(lane):
    number, spoilt = np.ones(16, np.float32), np.ones(16, np.float32)
    spoilt[lane] = np.nan
    for out in (in_lanes(spoilt, number), in_lanes(number, spoilt)):
        np.testing.assert_array_equal(np.isnan(out[11]), np.isnan(spoilt))
    assert np.isnan(in_lanes(spoilt, number)[12]).all()
