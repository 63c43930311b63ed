"""Quantised activations: every code, scale and sum against the slow twin, and every token in its tile."""

import numpy as np
import pytest
from numba import types

from tests import naive
from tests.worker.kernels.callers import compiled, run
from worker.kernels import activations
from worker.kernels.instruction_sets import INSTRUCTION_SET, INSTRUCTION_SETS
from worker.kernels.jit import entry
from worker.kernels.matmul import TOKENS_AT_ONCE

TOKENS = [1, 2, 3, 4, 5, 7, 8, 12, 13]


@entry(types.UniTuple(types.int64, 2)(types.int64, types.int64))
def tile_at(token, num_tokens):
    return activations.tile_at(token, num_tokens)


def tile_of(token: int, num_tokens: int) -> tuple[int, int]:
    first, size = compiled(tile_at)(token, num_tokens)
    return int(first), int(size)


def quantised(values: np.ndarray) -> tuple[naive.Quantised, np.ndarray, np.ndarray, np.ndarray]:
    """(codes and scales, scale * sum, sum, sums of the halves), the latter (tokens, blocks), by the kernel."""
    num_tokens, num_columns = values.shape
    num_blocks = num_columns // 32
    values = np.ascontiguousarray(values, np.float32)
    codes = np.full(num_tokens * num_columns, 99, np.int8)
    factors = np.full(num_tokens * num_blocks * 5, 99, np.float32)
    for token in range(num_tokens):
        run(activations.quantize_row, values[token], num_columns, codes, factors, token, num_tokens)
    scaled, sums = np.zeros((num_tokens, num_blocks), np.float32), np.zeros((num_tokens, num_blocks), np.int32)
    halves = np.zeros((num_tokens, num_blocks, 2), np.int32)
    out = naive.Quantised(np.zeros((num_tokens, num_blocks, 32), np.int32), np.zeros_like(scaled))
    for token in range(num_tokens):
        first, size = tile_of(token, num_tokens)
        within = token - first
        tile = codes[first * num_columns : (first + size) * num_columns].reshape(num_blocks, size, 32)
        out.codes[token] = tile[:, within]
        begin = first * num_blocks * 5
        of_tile = factors[begin : begin + size * num_blocks * 5].reshape(num_blocks, 5, size)
        out.scales[token], scaled[token] = of_tile[:, 0, within], of_tile[:, 1, within]
        sums[token], halves[token] = of_tile.view(np.int32)[:, 2, within], of_tile.view(np.int32)[:, 3:, within]
    return out, scaled, sums, halves


def assert_quantised_like_the_slow_twin(values: np.ndarray) -> None:
    got, scaled, sums, halves = quantised(values)
    expected = naive.quantise(values)
    np.testing.assert_array_equal(got.codes, expected.codes)
    np.testing.assert_array_equal(got.scales, expected.scales)
    np.testing.assert_array_equal(sums, expected.sums)
    np.testing.assert_array_equal(halves, expected.codes.reshape(*expected.codes.shape[:-1], 2, 16).sum(axis=-1))
    np.testing.assert_array_equal(scaled, expected.scales * expected.sums.astype(np.float32))


@pytest.mark.parametrize("num_tokens", TOKENS)
@pytest.mark.parametrize("num_columns", [32, 160])
def test_random_rows_quantise_exactly_as_the_slow_twin(num_tokens, num_columns):
    rng = np.random.default_rng(num_tokens)
    scale = 10.0 ** rng.uniform(-20, 20, (num_tokens, 1))
    assert_quantised_like_the_slow_twin((rng.standard_normal((num_tokens, num_columns)) * scale).astype(np.float32))


def test_halves_go_to_the_even_neighbour_and_the_largest_becomes_127():
    values = np.arange(-32, 32, dtype=np.float32).reshape(2, 32) + 0.5
    values[:, 0] = [127, -127]  # the scale of both is 1
    assert_quantised_like_the_slow_twin(values)
    got, *_ = quantised(values)
    assert got.codes[0, 0, 0] == 127 and got.codes[1, 0, 0] == -127
    np.testing.assert_array_equal(got.codes[1, 0, 1:5], [2, 2, 4, 4])  # of 1.5, 2.5, 3.5, 4.5


def test_zeros_have_scale_zero():
    got, scaled, sums, halves = quantised(np.zeros((5, 64), np.float32))
    assert not got.codes.any() and not got.scales.any() and not scaled.any()
    assert not sums.any() and not halves.any()


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 15, 16, 31])
def test_what_is_not_finite_shows_in_the_scale_of_its_block_and_in_no_other(spoilt, column):
    values = np.ones((3, 96), np.float32)
    values[1, 32 + column] = spoilt
    got, *_ = quantised(values)
    visible = np.zeros((3, 3), bool)
    visible[1, 1] = True
    np.testing.assert_array_equal(~np.isfinite(got.scales), visible)
    np.testing.assert_array_equal(got.codes[~visible], 127)


@pytest.mark.parametrize("num_tokens", range(1, 40))
def test_tiles_partition_the_tokens_in_order_largest_first(num_tokens):
    tiles = list(dict.fromkeys(tile_of(token, num_tokens) for token in range(num_tokens)))
    assert [first for first, _ in tiles] == np.cumsum([0, *(size for _, size in tiles[:-1])]).tolist()
    assert sum(size for _, size in tiles) == num_tokens
    sizes = [size for _, size in tiles]
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) <= {*INSTRUCTION_SET.tile_sizes, INSTRUCTION_SET.unpacked_tile}
    for token in range(num_tokens):
        first, size = tile_of(token, num_tokens)
        assert first <= token < first + size


@pytest.mark.parametrize("row", INSTRUCTION_SETS.values(), ids=INSTRUCTION_SETS)
def test_no_tile_of_any_instruction_set_crosses_what_is_computed_at_once(row, monkeypatch):
    sizes = row.tile_sizes
    monkeypatch.setattr(activations, "_LARGEST", sizes[0])
    monkeypatch.setattr(activations, "_SMALLER", sizes[1:])
    monkeypatch.setattr(activations, "_UNPACKED", row.unpacked_tile)
    monkeypatch.setattr(activations, "num_unpacked", activations.num_unpacked.py_func)
    for num_tokens in (TOKENS_AT_ONCE - 1, TOKENS_AT_ONCE + 1, 2 * TOKENS_AT_ONCE + sizes[0] + sizes[1] + 1):
        for token in range(num_tokens):
            first, size = activations.tile_at.py_func(token, num_tokens)
            assert first <= token < first + size <= num_tokens and size in (*sizes, row.unpacked_tile)
            assert first // TOKENS_AT_ONCE == (first + size - 1) // TOKENS_AT_ONCE


def test_tiles_take_unpacked_weights_where_two_of_them_share_these(monkeypatch):
    monkeypatch.setattr(activations, "_UNPACKED", 16)
    num_unpacked = activations.num_unpacked.py_func
    assert [num_unpacked(number) for number in (1, 16, 31, 32, 33, 63, 64)] == [0, 0, 0, 32, 32, 48, 64]
    monkeypatch.setattr(activations, "_UNPACKED", 0)
    assert num_unpacked(1000) == 0
