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
from worker.kernels.cache_types import CACHE_TYPES, CacheType, pages_at
from worker.kernels.instruction_sets import INSTRUCTION_SET
from worker.kernels.jit import Native, inlined, native
from worker.kernels.memory import load, store
from worker.kernels.simd import LANES, absolute, fma, splat, sum_lanes, where_below

_ABREAST = (1, 2, 4)
_NOTHING = np.float32(0)
_INFINITY, _NOT_A_NUMBER = np.float32(np.inf), np.float32(np.nan)


def _layout(cache_type: CacheType) -> ModuleType:
    return cache_numbers if cache_type.number else cache_codes


def keys_abreast(name: str, rows: int) -> int:
    """Pages of keys that are scored side by side: sums that wait for nothing of one another keep a core busy."""
    return max(number for number in _ABREAST if number == 1 or number * rows <= INSTRUCTION_SET.attention_sums)


def values_abreast(name: str, rows: int) -> int:
    """Columns of values that are weighed side by side; one if each pair of them has scales of its own."""
    return keys_abreast(name, rows) if CACHE_TYPES[name].number else 1


def score_pages(
    name: str, rows: int, count: int, keys: int, page_bytes: int, table: int, index: int, head_dim: int, queries: int
) -> Any:
    """Tile(f32, count * rows) of query . key for the 16 positions of each of `count` pages, page by page.

    name, rows, count: constants, the first of CACHE_TYPES; keys: address of the head's first page, of which those of
    the sequence are `page_bytes` times the i32 numbers at `table` away; index: of the first one there; queries: address
    of f32 [head_dim][rows].
    """
    raise NotImplementedError("only in kernels")


@overload(score_pages, prefer_literal=True, strict=False)  # strict would compare annotations
def _score_pages(
    name: Any, rows: Any, count: Any, keys: Any, page_bytes: Any, table: Any, index: Any, head_dim: Any, queries: Any
) -> Any:
    cache_type = CACHE_TYPES[name.literal_value]
    score = inlined(_layout(cache_type).scorer(cache_type, rows.literal_value, count.literal_value))

    def score_pages(name, rows, count, keys, page_bytes, table, index, head_dim, queries):
        return score(pages_at(keys, page_bytes, table, index, count), head_dim, queries)

    return score_pages


def weigh_columns(
    name: str, rows: int, count: int, values: int, page_bytes: int, table: int, pages: int, column: int, weights: int,
    scaled: int,
) -> Any:  # fmt: skip
    """Tile(f32, count * rows) of 16 dimensions each: the sums of weight * value over `pages` pages, column by column.

    name, rows, count: constants, the first of CACHE_TYPES; values, page_bytes, table: as of keys above; column: the
    first one's dimension / 16; weights: address of f32 [page][rows][16]; scaled: room for as many, for types that have
    scales.
    """
    raise NotImplementedError("only in kernels")


@overload(weigh_columns, prefer_literal=True, strict=False)
def _weigh_columns(
    name: Any, rows: Any, count: Any, values: Any, page_bytes: Any, table: Any, pages: Any, column: Any, weights: Any,
    scaled: Any,
) -> Any:  # fmt: skip
    cache_type = CACHE_TYPES[name.literal_value]
    weigh = inlined(_layout(cache_type).weigher(cache_type, rows.literal_value, count.literal_value))

    def weigh_columns(name, rows, count, values, page_bytes, table, pages, column, weights, scaled):
        return weigh(values, page_bytes, table, pages, column, weights, scaled)

    return weigh_columns


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
