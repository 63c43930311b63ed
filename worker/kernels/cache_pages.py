"""Reading and writing pages of keys and values, in each of the cache's types.

attention.py scores keys and weighs values, forward.py writes them. A row gives weight 0 to positions of a page that it
does not see, and 0 times infinity is NaN: so the values of a page are always finite. VALUE_CLEARERS see to what nobody
has written, `keep_finite` to what was computed.
"""

from types import ModuleType
from typing import Any

import numpy as np
from numba.extending import overload

from worker.kernels import cache_codes, cache_numbers
from worker.kernels.cache_types import CACHE_TYPES, CacheType
from worker.kernels.jit import Native, inlined, native
from worker.kernels.memory import load, store
from worker.kernels.simd import LANES, absolute, fma, splat, sum_lanes, where_below

_NOTHING = np.float32(0)
_INFINITY, _NOT_A_NUMBER = np.float32(np.inf), np.float32(np.nan)


def _layout(cache_type: CacheType) -> ModuleType:
    return cache_numbers if cache_type.number else cache_codes


def score_page(name: str, rows: int, page: int, head_dim: int, queries: int) -> Any:
    """Tile(f32, rows) of query . key for the 16 positions of a page.

    name, rows: constants, the first of CACHE_TYPES; queries: address of f32 [head_dim][rows].
    """
    raise NotImplementedError("only in kernels")


@overload(score_page, prefer_literal=True, strict=False)  # strict would compare annotations
def _score_page(name: Any, rows: Any, page: Any, head_dim: Any, queries: Any) -> Any:
    cache_type, count = CACHE_TYPES[name.literal_value], rows.literal_value
    score = inlined(_layout(cache_type).scorer(cache_type, count))
    return lambda name, rows, page, head_dim, queries: score(page, head_dim, queries)


def weigh_column(
    name: str, rows: int, values: int, page_bytes: int, table: int, pages: int, column: int, weights: int, scaled: int
) -> Any:
    """Tile(f32, rows) of 16 dimensions: the sum of weight * value over the positions of `pages` pages.

    name, rows: constants, the first of CACHE_TYPES; values: address of the head's first page, of which those of the
    sequence are `page_bytes` times the i32 numbers at `table` away; column: dimension / 16; weights: address of f32
    [page][rows][16]; scaled: room for as many, for types that have scales.
    """
    raise NotImplementedError("only in kernels")


@overload(weigh_column, prefer_literal=True, strict=False)
def _weigh_column(
    name: Any, rows: Any, values: Any, page_bytes: Any, table: Any, pages: Any, column: Any, weights: Any, scaled: Any
) -> Any:
    cache_type, count = CACHE_TYPES[name.literal_value], rows.literal_value
    weigh = inlined(_layout(cache_type).weigher(cache_type, count))

    def weigh_column(name, rows, values, page_bytes, table, pages, column, weights, scaled):
        return weigh(values, page_bytes, table, pages, column, weights, scaled)

    return weigh_column


@native("iii")
def keep_finite(key, value, head_dim):
    """Moves what is not finite of a value, f32 [head_dim], to its key as NaN: only who sees the position sees that."""
    nothing = splat(_NOTHING)
    total = nothing
    for i in range(0, 4 * head_dim, 4 * LANES):
        total = fma(load(value + i), nothing, total)
    if sum_lanes(total) == _NOTHING:
        return
    for i in range(0, 4 * head_dim, 4 * LANES):
        store(key + i, splat(_NOT_A_NUMBER))
        numbers = load(value + i)
        store(value + i, where_below(absolute(numbers), splat(_INFINITY), numbers, nothing))


# By CacheType.name; a model needs those of its cache.
_TYPES = CACHE_TYPES.values()
KEY_WRITERS = {t.name: Native(f"write keys {t.name}", "iiii", _layout(t).key_writer(t)) for t in _TYPES}
VALUE_WRITERS = {t.name: Native(f"write values {t.name}", "iiii", _layout(t).value_writer(t)) for t in _TYPES}
VALUE_CLEARERS = {t.name: Native(f"clear values {t.name}", "iii", _layout(t).value_clearer(t)) for t in _TYPES}
