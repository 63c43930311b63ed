"""Attention over the paged cache against the slow twin: any pages and cache types, and the same bits in any tile."""

from dataclasses import dataclass

import numpy as np
import pytest
from numba import types

from tests import naive
from tests.worker.kernels.callers import compiled, run
from worker.kernels import attention
from worker.kernels.cache_pages import KEY_WRITERS, VALUE_CLEARERS, VALUE_WRITERS
from worker.kernels.cache_types import CACHE_TYPES
from worker.kernels.jit import entry

ROWS = sorted({attention.WIDE, *attention.NARROW})
SCALE = 0.125


@dataclass
class Cache:
    """One KV head of one layer, among pages of others that hold anything finite."""

    key_type: str
    value_type: str
    keys: np.ndarray  # (pages, bytes)
    values: np.ndarray
    table: np.ndarray  # (pages of the sequence,) i32
    seen: tuple[np.ndarray, np.ndarray]  # keys and values as the cache gives them back, (positions, head_dim) each


def random_cache(
    head_dim: int, num_positions: int, key_type: str = "f16", value_type: str = "f16", seed: int = 0
) -> Cache:
    """Written position by position into shuffled pages; the last one is cleared beyond what was written."""
    rng = np.random.default_rng(seed)
    num_pages = -(-num_positions // 16)
    table = rng.permutation(num_pages + 3)[:num_pages].astype(np.int32)
    rows = rng.standard_normal((2, num_positions, head_dim)).astype(np.float32)
    keys, values = (
        np.full((num_pages + 3, CACHE_TYPES[t].page_bytes(head_dim)), 0x3C, np.uint8) for t in (key_type, value_type)
    )
    for position, (key, value) in enumerate(zip(*rows, strict=True)):
        page, lane = table[position // 16], position % 16
        run(KEY_WRITERS[key_type], key, keys[page], lane, head_dim)
        run(VALUE_WRITERS[value_type], value, values[page], lane, head_dim)
    run(VALUE_CLEARERS[value_type], values[table[-1]], (num_positions - 1) % 16 + 1, head_dim)
    seen = naive.through_cache(key_type, rows[0]), naive.through_cache(value_type, rows[1])
    return Cache(key_type, value_type, keys, values, table, seen)


def attend(
    cache: Cache,
    queries: np.ndarray,
    rows: int,
    context: int,
    *,
    window: int = 0,
    cap: float = 0.0,
    group: int = 1,
    cut: bool = False,
) -> np.ndarray:
    """Queries (tokens, heads of the group, head_dim) in tiles of `rows`; cut: chunks are joined at the end."""
    head_dim, num_rows = queries.shape[-1], queries.shape[0] * group
    out = np.zeros((num_rows, head_dim), np.float32)
    scratch = np.full(attention.scratch_bytes(head_dim), 0xFF, np.uint8)  # NaN, where nothing is written
    size = attention.state_bytes(head_dim)
    for first in range(0, num_rows, rows):
        last = min(first + rows, num_rows) - 1
        begin = max(0, context + first // group + 1 - window) // attention.CHUNK if window else 0
        end = (context + last // group) // attention.CHUNK + 1
        states = np.full((end - begin, rows * size), 0xFF, np.uint8)
        for chunk in range(begin, end):
            run(attention.ATTEND[cache.key_type, cache.value_type, rows], queries, queries.strides[0], first, num_rows,
                group, context, window, head_dim, cache.keys, cache.keys.shape[1], cache.values, cache.values.shape[1],
                cache.table, chunk, int(chunk > begin and not cut), states[chunk - begin if cut else 0], scratch,
                np.float32(SCALE), np.float32(cap))  # fmt: skip
        for row in range(first, last + 1):
            run(attention.finish_row, states.ctypes.data + (row - first) * size, end - begin if cut else 1, rows * size,
                out[row], head_dim, scratch)  # fmt: skip
    return out.reshape(queries.shape)


def truth(cache: Cache, queries: np.ndarray, context: int, *, window: int = 0, cap: float = 0.0) -> np.ndarray:
    out = np.empty(queries.shape)
    for token, heads in enumerate(queries):
        end = context + token + 1
        keys, values = (part[max(0, end - window) if window else 0 : end] for part in cache.seen)
        for head, query in enumerate(heads):
            out[token, head] = naive.attend(query, keys, values, SCALE, cap)
    return out


def random_queries(num_tokens: int, group: int, head_dim: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_tokens, group, head_dim)).astype(np.float32) * 3


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("head_dim", [16, 64, 96])
@pytest.mark.parametrize("context", [0, 13, 250, 254, 600])
def test_tokens_attend_to_all_positions_up_to_their_own(head_dim, context):
    queries = random_queries(7, 3, head_dim)
    cache = random_cache(head_dim, context + 7)
    assert_close(attend(cache, queries, attention.WIDE, context, group=3), truth(cache, queries, context))


@pytest.mark.parametrize(
    ("key_type", "value_type"), [*((name, name) for name in CACHE_TYPES), ("q8_0", "f16"), ("f16", "q4_0")]
)
def test_the_cache_is_read_as_it_was_written_whatever_its_types(key_type, value_type):
    queries = random_queries(3, 1, 64)
    cache = random_cache(64, 301, key_type, value_type)
    assert_close(attend(cache, queries, attention.WIDE, 298), truth(cache, queries, 298))


@pytest.mark.parametrize("window", [1, 7, 16, 40, 256, 1000])
@pytest.mark.parametrize("context", [0, 30, 270, 520])
def test_tokens_see_no_further_back_than_their_window(context, window):
    queries = random_queries(9, 1, 32)
    cache = random_cache(32, context + 9)
    found = attend(cache, queries, attention.WIDE, context, window=window)
    assert_close(found, truth(cache, queries, context, window=window))


@pytest.mark.parametrize("cap", [0.5, 30.0])
def test_scores_are_capped_softly(cap):
    queries = random_queries(4, 2, 32)
    cache = random_cache(32, 40)
    assert_close(attend(cache, queries, 4, 36, cap=cap, group=2), truth(cache, queries, 36, cap=cap))


@pytest.mark.parametrize("cache_type", CACHE_TYPES)
@pytest.mark.parametrize("window", [0, 20, 300])
def test_a_row_has_the_same_bits_in_any_tile_joined_early_or_late_and_in_any_pages(cache_type, window):
    context, queries = 530, random_queries(5, 3, 32)
    cache = random_cache(32, context + 5, cache_type, cache_type)
    order = np.random.default_rng(2).permutation(len(cache.keys))
    moved = Cache(cache_type, cache_type, cache.keys[order], cache.values[order],
                  np.argsort(order)[cache.table].astype(np.int32), cache.seen)  # fmt: skip
    expected = attend(cache, queries, attention.WIDE, context, window=window, group=3)
    for rows in ROWS:
        for cut in (False, True):
            found = attend(moved, queries, rows, context, window=window, group=3, cut=cut)
            np.testing.assert_array_equal(found, expected)
    for token in range(5):
        alone = attend(cache, queries[token : token + 1], ROWS[0], context + token, window=window, group=3)
        np.testing.assert_array_equal(alone[0], expected[token])


@pytest.mark.parametrize("spoilt", [65504, -65504])
def test_what_a_row_does_not_see_changes_no_bit(spoilt):
    window, context, queries = 30, 300, random_queries(4, 1, 32)
    cache = random_cache(32, context + 4)
    clean = attend(cache, queries, attention.WIDE, context, window=window)
    keys, values = cache.keys.copy(), cache.values.copy()
    row = np.full(32, spoilt, np.float32)
    for position in [*range(context + 1 - window), *range(context + 1, context + 4)]:
        page, lane = cache.table[position // 16], position % 16
        run(KEY_WRITERS["f16"], row, keys[page], lane, 32)
        run(VALUE_WRITERS["f16"], row, values[page], lane, 32)
    spoilt_cache = Cache("f16", "f16", keys, values, cache.table, cache.seen)
    found = attend(spoilt_cache, queries, attention.WIDE, context, window=window)
    np.testing.assert_array_equal(found[0], clean[0])


def test_every_position_a_row_sees_counts():
    window, context, queries = 20, 250, random_queries(3, 1, 32)
    cache = random_cache(32, context + 3)
    clean = attend(cache, queries, attention.WIDE, context, window=window)
    for position in range(context + 3):
        values = cache.values.copy()
        run(VALUE_WRITERS["f16"], np.full(32, 1e4, np.float32), values[cache.table[position // 16]], position % 16, 32)
        other = Cache("f16", "f16", cache.keys, values, cache.table, cache.seen)
        found = attend(other, queries, attention.WIDE, context, window=window)
        for row in range(3):
            seen = context + row + 1 - window <= position <= context + row
            assert (found[row] != clean[row]).all() if seen else (found[row] == clean[row]).all()


def test_nan_in_a_query_shows_in_its_row_and_no_other():
    cache, queries = random_cache(32, 40), random_queries(4, 1, 32)
    clean = attend(cache, queries, attention.WIDE, 36)
    queries[2, 0, 7] = np.nan
    found = attend(cache, queries, attention.WIDE, 36)
    assert np.isnan(found[2]).all()
    np.testing.assert_array_equal(found[[0, 1, 3]], clean[[0, 1, 3]])


_pair = types.UniTuple(types.float32, 2)


@entry(_pair(types.intp, types.intp, types.intp))
def soften(scores, stride, pages):
    return attention.soften(scores, stride, pages)


@pytest.mark.parametrize("num_seen", [1, 15, 16, 17, 64])
@pytest.mark.parametrize("offset", [0, -1e4, 1e4])
def test_softening_gives_the_largest_score_weight_one_and_unseen_positions_exactly_none(num_seen, offset):
    scores = np.full(64, -np.inf, np.float32)
    scores[-num_seen:] = np.random.default_rng(num_seen).uniform(-20, 20, num_seen) + offset
    weights = scores.copy()
    top, total = compiled(soften)(weights.ctypes.data, 64, 4)
    expected = np.exp((scores - scores.max()).astype(np.float64))  # the difference rounds to f32
    np.testing.assert_allclose(weights, expected, rtol=3e-7)
    assert top == scores.max() and weights.max() == 1 and not weights[:-num_seen].any()
    assert total == pytest.approx(expected.sum(), rel=1e-6)


def test_softening_what_sees_nothing_gives_no_weight():
    weights = np.full(32, -np.inf, np.float32)
    assert compiled(soften)(weights.ctypes.data, 64, 2) == (-np.inf, 0)
    assert not weights.any()


def test_softening_shows_nan():
    scores = np.zeros(32, np.float32)
    scores[20] = np.nan
    assert np.isnan(compiled(soften)(scores.ctypes.data, 64, 2)).all() and np.isnan(scores).all()
