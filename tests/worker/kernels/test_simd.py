"""SIMD values: lanewise operations lane by lane, what they read and write, and the choice of instruction set."""

import numpy as np
import pytest
from numba import types

from tests.worker.kernels.callers import compiled
from worker.errors import UnsupportedModel
from worker.kernels import dots, simd
from worker.kernels.jit import entry


@entry(types.void(types.intp, types.intp, types.intp))
def lane_operations(x, y, out):
    """Operations on the vectors at x and y, 16 f32 each, stored 64 bytes from one another."""
    a, b = simd.load(x), simd.load(y)
    simd.store(out, a + b)
    simd.store(out + 64, a - b)
    simd.store(out + 128, a * b)
    simd.store(out + 192, a / b)
    simd.store(out + 256, simd.fma(a, b, a))
    simd.store(out + 320, simd.absolute(a))
    simd.store(out + 384, simd.to_float(simd.round_even(a)))
    simd.store(out + 448, simd.where_below(a, b, b, a))
    simd.store(out + 512, simd.select_below(np.int32(5), a, b))
    simd.store(out + 576, simd.splat(simd.sum_lanes(a)))
    simd.store(out + 640, simd.to_float(simd.shift_left(simd.round_even(a), 3) + simd.splat_i32(-7)))
    simd.store(out + 704, simd.maximum(a, b))
    simd.store(out + 768, simd.splat(simd.max_lanes(a)))


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


@entry(types.void(types.intp, types.intp))
def memory_operations(x, out):
    """What is stored narrower than f32, and numbers spread over vectors, from 32 f32 at x."""
    a = simd.load(x)
    simd.store_numbers("F16", out, a)
    simd.store_i8(out + 32, simd.round_even(a))
    simd.store_quads(out + 48, 8, simd.round_even(a))
    simd.store_scalar_f16(out + 80, simd.load_scalar(x))
    simd.store_rows(out + 128, 64, simd.load_rows(x, 8, 3) * simd.splats(x, 3))
    simd.store(out + 320, simd.pick(simd.splats_strided(x, 12, 4), 3))
    simd.store(out + 384, simd.load_numbers("BF16", x))
    simd.store(out + 448, simd.load_numbers("I8", x))
    simd.store(out + 512, simd.load_numbers("E8M0", x))
    simd.store_scalar(out + 576, simd.load_number("E8M0", x + 5))


def test_memory_operations_put_every_value_in_its_place():
    x = np.random.default_rng(5).uniform(-120, 120, 32).astype(np.float32)
    out = np.zeros(580, np.uint8)
    compiled(memory_operations)(x.ctypes.data, out.ctypes.data)
    whole = np.rint(x[:16]).astype(np.int8)
    np.testing.assert_array_equal(out[:32].view(np.float16), x[:16].astype(np.float16))
    np.testing.assert_array_equal(out[32:48].view(np.int8), whole)
    np.testing.assert_array_equal(out[48:80].view(np.int8).reshape(4, 8)[:, :4], whole.reshape(4, 4))
    assert out[80:82].view(np.float16)[0] == np.float16(x[0])
    rows = np.stack([x[2 * i : 2 * i + 16] * x[i] for i in range(3)])
    np.testing.assert_array_equal(out[128:320].view(np.float32).reshape(3, 16), rows)
    np.testing.assert_array_equal(out[320:384].view(np.float32), np.full(16, x[9]))
    widened = x.view(np.uint16)[:16].astype(np.uint32) << 16
    np.testing.assert_array_equal(out[384:448].view(np.uint32), widened)
    np.testing.assert_array_equal(out[448:512].view(np.float32), x.view(np.int8)[:16])
    powers = np.ldexp(np.float32(1), x.view(np.uint8)[:16].astype(int) - 128)
    np.testing.assert_array_equal(out[512:576].view(np.float32), powers)
    assert out[576:580].view(np.float32)[0] == powers[5]


def test_every_exponent_of_a_byte_is_the_power_of_two_it_stands_for():
    exponents, out = np.arange(256, dtype=np.uint8), np.zeros(1024, np.uint8)
    for first in range(0, 256, 16):
        compiled(memory_operations)(np.resize(exponents[first:], 128).ctypes.data, out.ctypes.data)
        powers = np.ldexp(np.float32(1), np.arange(first, first + 16) - 128)
        np.testing.assert_array_equal(out[512:576].view(np.float32), powers)


def test_the_first_usable_instruction_set_of_the_table_is_chosen():
    everything = frozenset().union(*(needs for needs, _ in simd.INSTRUCTION_SETS.values()))
    assert simd.choose_instruction_set("", everything) == "avx512-vnni"
    assert simd.choose_instruction_set("", frozenset({"avx2", "fma", "f16c", "avx512f"})) == "avx2"
    assert simd.choose_instruction_set("", frozenset({"avx2", "fma", "f16c", "avxvnni"})) == "avx-vnni"
    assert simd.choose_instruction_set("", frozenset()) == "portable"


def test_a_wanted_instruction_set_is_taken_if_the_processor_has_it():
    assert simd.choose_instruction_set("portable", frozenset({"avx2", "fma", "f16c"})) == "portable"
    for wanted in ("avx512-vnni", "neon"):
        with pytest.raises(UnsupportedModel, match=f"CORRAL_ISA='{wanted}'.*usable: avx2, portable$"):
            simd.choose_instruction_set(wanted, frozenset({"avx2", "fma", "f16c"}))


def test_every_lowering_has_a_row_and_tiles_from_large_to_a_single_token():
    assert dots.LOWERINGS.keys() == simd.INSTRUCTION_SETS.keys()
    for _, (large, middle, small, one) in simd.INSTRUCTION_SETS.values():
        assert large > middle > small > one == 1
