"""Attention over the paged cache against the slow twin: any blocks, any limits, and the same bits in any tile."""

from dataclasses import dataclass

import numpy as np
import pytest
from numba import types

from tests import naive
from tests.worker.kernels.callers import compiled, run
from worker.kernels import attention
from worker.kernels.jit import entry

LIMITS = {
    "first": (1, 1, 1, 1),
    "growing": (5, 6, 7, 8),
    "over a block's end": (15, 16, 17, 18),
    "shared position": (33, 33, 34, 34),
    "over a segment's end": (127, 128, 129, 130),
    "long": (300, 300, 300, 300),
}


@dataclass
class Cache:
    """One KV head of one layer, of which a sequence has the blocks in `table`."""

    keys: np.ndarray  # (blocks, head_dim, 16) f16
    values: np.ndarray  # (blocks, 16, head_dim) f16
    table: np.ndarray  # (blocks of the sequence,) i32

    def seen(self, first: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
        keys, values = naive.read_pages(self.keys, self.values, self.table, limit)
        return keys[first:], values[first:]


def random_cache(head_dim: int, num_positions: int, seed: int = 0) -> Cache:
    """A sequence's positions in shuffled blocks, among blocks of others."""
    rng = np.random.default_rng(seed)
    num_blocks = -(-num_positions // 16)
    keys, values = rng.standard_normal((2, num_blocks + 3, 16 * head_dim)).astype(np.float16)
    table = rng.permutation(num_blocks + 3)[:num_blocks].astype(np.int32)
    return Cache(keys.reshape(-1, head_dim, 16), values.reshape(-1, 16, head_dim), table)


def attend(
    cache: Cache, queries: np.ndarray, limits: tuple[int, ...], *, window: int = 0, cap: float = 0
) -> np.ndarray:
    """(4, head_dim), by the kernel; scale 1 / 8."""
    head_dim = queries.shape[1]
    stride = 4 * 16 * len(cache.table) + 64
    scratch = np.full(64 + 2 * 16 * head_dim + 4 * stride, 0xFF, np.uint8)  # NaN, where nothing is written
    scratch[:8].view(np.int64)[0] = stride
    scratch[8:16].view(np.float32)[:] = [0.125, cap]
    out = np.empty_like(queries)
    run(attention.attend_rows, *queries, *limits, *out, head_dim, cache.keys, cache.values, cache.table,
        head_dim * 32, window, scratch)  # fmt: skip
    return out


def truth(cache: Cache, query: np.ndarray, limit: int, window: int, cap: float) -> np.ndarray:
    keys, values = cache.seen(max(0, limit - window) if window else 0, limit)
    return naive.attend(query, keys, values, 0.125, cap)


def random_queries(head_dim: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((4, head_dim)).astype(np.float32) * 3


@pytest.mark.parametrize("head_dim", [16, 64, 96])
@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_rows_attend_to_what_they_see(head_dim, limits):
    cache, queries = random_cache(head_dim, max(limits)), random_queries(head_dim)
    out = attend(cache, queries, limits)
    for row, limit in enumerate(limits):
        np.testing.assert_allclose(out[row], truth(cache, queries[row], limit, 0, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [1, 7, 16, 40, 1000])
@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_rows_see_no_further_back_than_their_window(limits, window):
    cache, queries = random_cache(32, max(limits)), random_queries(32)
    out = attend(cache, queries, limits, window=window)
    for row, limit in enumerate(limits):
        np.testing.assert_allclose(out[row], truth(cache, queries[row], limit, window, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cap", [0.5, 30.0])
def test_scores_are_capped_softly(cap):
    limits = (33, 33, 34, 34)
    cache, queries = random_cache(32, 34), random_queries(32)
    out = attend(cache, queries, limits, cap=cap)
    for row, limit in enumerate(limits):
        np.testing.assert_allclose(out[row], truth(cache, queries[row], limit, 0, cap), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [0, 20, 150])
def test_a_row_has_the_same_bits_in_any_tile_and_in_any_blocks(window):
    limits = (17, 130, 250, 260)
    cache, queries = random_cache(64, 260), random_queries(64)
    out = attend(cache, queries, limits, window=window)
    order = np.random.default_rng(2).permutation(len(cache.keys))
    moved = Cache(cache.keys[order], cache.values[order], np.argsort(order)[cache.table].astype(np.int32))
    for row, limit in enumerate(limits):
        alone = attend(moved, np.tile(queries[row], (4, 1)), (limit,) * 4, window=window)
        np.testing.assert_array_equal(alone, np.tile(out[row], (4, 1)))


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, 65504])
def test_what_a_row_does_not_see_changes_no_bit(spoilt):
    limits, window = (40, 50, 51, 60), 30
    cache, queries = random_cache(32, 64), random_queries(32)
    clean = attend(cache, queries, limits, window=window)
    for row, limit in enumerate(limits):
        unseen = np.ones(64, bool)
        unseen[limit - window : limit] = False
        keys, values = cache.keys.copy(), cache.values.copy()
        for position in np.flatnonzero(unseen):
            keys[cache.table[position // 16], :, position % 16] = spoilt
            values[cache.table[position // 16], position % 16] = spoilt
        out = attend(Cache(keys, values, cache.table), queries, limits, window=window)
        np.testing.assert_array_equal(out[row], clean[row])


def test_every_position_a_row_sees_counts():
    limits, window = (19, 20, 21, 22), 20
    cache, queries = random_cache(32, 32), random_queries(32)
    clean = attend(cache, queries, limits, window=window)
    for position in range(22):
        values = cache.values.copy()
        values[cache.table[position // 16], position % 16] = np.inf
        out = attend(Cache(cache.keys, values, cache.table), queries, limits, window=window)
        for row, limit in enumerate(limits):
            seen = max(0, limit - window) <= position < limit
            assert np.isinf(out[row]).all() if seen else (out[row] == clean[row]).all()


def test_nan_in_a_query_shows_in_its_row_and_no_other():
    cache, queries = random_cache(32, 40), random_queries(32)
    limits = (37, 38, 39, 40)
    clean = attend(cache, queries, limits)
    queries[2, 7] = np.nan
    out = attend(cache, queries, limits)
    assert np.isnan(out[2]).all()
    np.testing.assert_array_equal(out[[0, 1, 3]], clean[[0, 1, 3]])


@entry(types.float32(types.intp, types.intp))
def soften(scores, num_positions):
    return attention.soften(scores, num_positions)


@pytest.mark.parametrize("num_seen", [1, 15, 16, 17, 64])
@pytest.mark.parametrize("offset", [0, -1e4, 1e4])
def test_softening_gives_the_largest_score_weight_one_and_unseen_positions_exactly_none(num_seen, offset):
    scores = np.full(64, -np.inf, np.float32)
    scores[-num_seen:] = np.random.default_rng(num_seen).uniform(-20, 20, num_seen) + offset
    weights = scores.copy()
    total = compiled(soften)(weights.ctypes.data, 64)
    expected = np.exp((scores - scores.max()).astype(np.float64))  # the difference rounds to f32
    np.testing.assert_allclose(weights, expected, rtol=3e-7)
    assert weights.max() == 1 and not weights[:-num_seen].any()
    assert total == pytest.approx(expected.sum(), rel=1e-6)


def test_softening_shows_nan():
    scores = np.zeros(32, np.float32)
    scores[20] = np.nan
    assert np.isnan(compiled(soften)(scores.ctypes.data, 32)) and np.isnan(scores).all()


@pytest.mark.parametrize("position", [0, 15, 16, 37])
def test_keys_and_values_go_to_their_place_rounded_to_the_nearest_f16(position):
    key, value = np.random.default_rng(position).standard_normal((2, 48)).astype(np.float32) * 100
    keys, values = np.full((48, 16), 7, np.float16), np.full((16, 48), 7, np.float16)
    run(attention.write_key_value, key, value, keys, values, position, 48)
    np.testing.assert_array_equal(keys[:, position % 16], key.astype(np.float16))
    np.testing.assert_array_equal(values[position % 16], value.astype(np.float16))
    assert (keys == 7).sum() == (values == 7).sum() == 48 * 15
