"""Norms, activation functions and rotation against the slow twins, and e^x to its last places."""

import numpy as np
import pytest
from numba import types

from tests import naive
from tests.worker.kernels.callers import compiled, run
from worker.kernels import ops
from worker.kernels.activations import quantize_row
from worker.kernels.jit import entry
from worker.kernels.memory import load, store
from worker.kernels.simd import LANES


@entry(types.void(types.intp, types.intp, types.intp))
def exponentials(values, out, num_columns):
    for i in range(0, 4 * num_columns, 4 * LANES):
        store(out + i, ops.exp(load(values + i)))


def exp(values: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values, np.float32)
    out = np.empty_like(values)
    compiled(exponentials)(values.ctypes.data, out.ctypes.data, values.size)
    return out


def test_exp_is_within_two_units_of_the_last_place():
    x = np.concatenate([np.linspace(-87, 88, 200_000), np.linspace(-1e-3, 1e-3, 10_000)]).astype(np.float32)
    x = x[: x.size // 16 * 16]
    truth = np.exp(x.astype(np.float64))
    error = np.abs(exp(x) - truth) / np.spacing(truth.astype(np.float32))
    assert error.max() <= 2


def test_exp_of_zero_is_one_and_of_less_than_minus_87_exactly_zero():
    x = np.full(16, -np.inf, np.float32)
    x[:6] = [0, -0.0, -87.00001, -100, -1e30, -87]
    out = exp(x)
    np.testing.assert_array_equal(out[:2], 1)
    np.testing.assert_array_equal(out[2:5], 0)
    assert out[5] > 0 and not out[6:].any()


def test_exp_never_leaves_its_range_and_keeps_nan():
    x = np.full(16, np.nan, np.float32)
    x[:4] = [88.5, 100, 1e30, np.inf]
    out = exp(x)
    np.testing.assert_allclose(out[:4], np.exp(88.0), rtol=1e-6)
    assert np.isnan(out[4:]).all()


@pytest.mark.parametrize("num_columns", [32, 96, 576])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_norm_is_that_of_the_slow_twin(num_columns, scale):
    rng = np.random.default_rng(num_columns)
    values = (rng.standard_normal(num_columns) * scale).astype(np.float32)
    weight = rng.uniform(-2, 2, num_columns).astype(np.float32)
    out = np.empty_like(values)
    run(ops.norm_row, values, weight, out, num_columns, 1e-5)
    np.testing.assert_allclose(out, naive.rms_norm(values, weight, 1e-5), rtol=1e-6)


def test_norms_divide_and_take_roots_to_the_last_bit():
    """Whole numbers, whose squares sum up exactly: what is left are one root and one division, no estimates of them."""
    weight, out = np.ones(32, np.float32), np.empty(32, np.float32)
    for number in range(1, 500):
        values = np.full(32, number, np.float32)
        run(ops.norm_row, values, weight, out, 32, 0.5)
        factor = np.float32(1) / np.sqrt(np.float32(number**2 + 0.5))
        np.testing.assert_array_equal(out, values * factor)


def quantised_by(kernel, *arguments, num_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """(codes, factors) of one token alone, from a kernel that ends in (codes, factors, token, num_tokens)."""
    codes, factors = np.zeros(num_columns, np.int8), np.zeros(num_columns // 32 * 5, np.float32)
    run(kernel, *arguments, codes, factors, 0, 1)
    return codes, factors


def same_quantised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return quantised_by(quantize_row, values, values.size, num_columns=values.size)


def test_norm_and_quantise_in_one_gives_the_bits_of_one_after_the_other():
    rng = np.random.default_rng(0)
    values, weight = rng.standard_normal((2, 160)).astype(np.float32)
    normed = np.empty_like(values)
    run(ops.norm_row, values, weight, normed, 160, 1e-5)
    together = quantised_by(ops.norm_quantize_row, values, weight, 160, 1e-5, num_columns=160)
    for one, other in zip(together, same_quantised(normed), strict=True):
        np.testing.assert_array_equal(one, other)


ACTIVATIONS = {"silu": naive.silu, "gelu": naive.gelu}


def gated_row(activation: str, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    gate, up = np.ascontiguousarray(gate, np.float32), np.ascontiguousarray(up, np.float32)
    out = np.empty_like(gate)
    run(ops.GATED[activation][0], gate, up, out, gate.size)
    return out


@pytest.mark.parametrize("activation", ops.GATED)
def test_gating_is_that_of_the_slow_twin_far_beyond_the_range_of_exp(activation):
    gate = np.concatenate([np.linspace(-300, 300, 6000), np.linspace(-10, 10, 2000)]).astype(np.float32)
    up = np.random.default_rng(0).uniform(-3, 3, gate.size).astype(np.float32)
    expected = ACTIVATIONS[activation](gate) * up
    np.testing.assert_allclose(gated_row(activation, gate, up), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("activation", ops.GATED)
def test_nan_passes_through_the_gate_from_both_sides(activation):
    gate, up = np.ones(32, np.float32), np.ones(32, np.float32)
    gate[3], up[20] = np.nan, np.nan
    spoilt = np.isin(np.arange(32), [3, 20])
    np.testing.assert_array_equal(np.isnan(gated_row(activation, gate, up)), spoilt)


@pytest.mark.parametrize("activation", ops.GATED)
def test_gate_and_quantise_in_one_gives_the_bits_of_one_after_the_other(activation):
    gate, up = np.random.default_rng(1).standard_normal((2, 96)).astype(np.float32) * 4
    together = quantised_by(ops.GATED[activation][1], gate, up, 96, num_columns=96)
    for one, other in zip(together, same_quantised(gated_row(activation, gate, up)), strict=True):
        np.testing.assert_array_equal(one, other)


def turned(kernel, head: np.ndarray, dimensions: int, position: int) -> np.ndarray:
    angles = position * 10000.0 ** (-np.arange(0, dimensions, 2) / dimensions)
    table = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)
    out = head.copy()
    run(kernel, out, dimensions // 2, table)
    return out


@pytest.mark.parametrize(("head_dim", "dimensions"), [(16, 16), (64, 64), (64, 32)])
@pytest.mark.parametrize("position", [0, 1, 4095])
def test_rotation_of_neighbours_is_that_of_the_slow_twin(head_dim, dimensions, position):
    head = np.random.default_rng(position).standard_normal(head_dim).astype(np.float32)
    frequencies = naive.rope_frequencies(dimensions, 10000.0)
    expected = naive.rotate_pairs(head[None, None], np.array([position]), frequencies)[0, 0]
    np.testing.assert_allclose(turned(ops.rotate_pairs, head, dimensions, position), expected, rtol=1e-5, atol=1e-6)


def test_rotation_of_halves_is_that_of_neighbours_in_another_order():
    head = np.random.default_rng(9).standard_normal(64).astype(np.float32)
    neighbours = turned(ops.rotate_pairs, head.reshape(2, 32).T.reshape(64).copy(), 64, 7)
    np.testing.assert_array_equal(turned(ops.rotate_halves, head, 64, 7), neighbours.reshape(32, 2).T.reshape(64))
