"""How keys and values lie in the cache: a page of 16 positions of one KV head, in each of the cache's types.

attention.py reads pages and writes them through this module. Keys lie by dimension, 16 positions side by side, so that
16 scores are the lanes of a vector without a transpose. Values lie by column of 16 dimensions, position after position.

    numbers   keys [head_dim][16 positions]                values [head_dim / 16][16 positions][16]
    q8_0      for each 32 dimensions: [16 positions] f16 scales, then keys int8 [32][16 positions],
              values int8 [2 columns][16 positions][16]
    q4_0      as q8_0, with 4 bits: a byte holds dimension i and, above it, i + 16: keys [16][16 positions], values
              [16 positions][16]

A row gives weight 0 to positions of a page that it does not see, and 0 times infinity is NaN: so the values of a page
are always finite. `clear_values` sees to what nobody has written, `keep_finite` to what was computed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba.extending import overload

from worker.kernels.codes import BLOCK
from worker.kernels.jit import Native, inlined, kernel, native
from worker.kernels.simd import (
    LANES,
    absolute,
    add,
    fma,
    load,
    load_numbers,
    load_scalar_i32,
    max_lanes,
    maximum,
    minimum,
    round_even,
    scatter_bytes,
    scatter_numbers,
    shift_left,
    splat,
    splats,
    splats_strided,
    store,
    store_i8,
    store_numbers,
    store_scalar_f16,
    store_scalar_u8,
    sum_lanes,
    where_below,
    zeros,
)

PAGE = LANES  # positions in a page
ROW_BYTES = 4 * PAGE  # of a row of weights for a page

_NOTHING = np.float32(0)
_LARGEST_F16 = np.float32(65504)
_INFINITY, _NOT_A_NUMBER = np.float32(np.inf), np.float32(np.nan)


@dataclass(frozen=True)
class CacheType:
    """A type of keys or values, named as in ggml."""

    name: str
    number: str = ""  # of simd's numbers, for types that store each value by itself
    number_bytes: int = 0
    code_bits: int = 0  # for the others: of a value under a scale for 32

    def page_bytes(self, head_dim: int) -> int:
        """Bytes of one KV head's page."""
        if self.number:
            return PAGE * head_dim * self.number_bytes
        return head_dim // BLOCK * self.group_bytes

    @property
    def group_bytes(self) -> int:
        """Bytes of 32 dimensions of a page under scales."""
        return PAGE * (2 + BLOCK * self.code_bits // 8)


CACHE_TYPES: dict[str, CacheType] = {
    cache_type.name: cache_type
    for cache_type in (
        CacheType("f32", "F32", 4),
        CacheType("f16", "F16", 2),
        CacheType("bf16", "BF16", 2),
        CacheType("q8_0", code_bits=8),
        CacheType("q4_0", code_bits=4),
    )
}

# simd's numbers that read 16 codes: those of the first 16 dimensions under a scale, and those of the last.
_CODES = {8: ("I8", "I8"), 4: ("LOW4", "HIGH4")}


@kernel
def page_offset(table, index, page_bytes):
    """Bytes from the first page of the cache to the one that stands at `index` of a table of i32 page numbers."""
    return np.int64(load_scalar_i32(table + 4 * index)) * page_bytes


# ---- keys -------------------------------------------------------------------------------------


def score_page(name: str, rows: int, page: int, head_dim: int, queries: int) -> Any:
    """Tile(f32, rows) of query . key for the 16 positions of a page.

    name, rows: constants, the first of CACHE_TYPES; queries: address of f32 [head_dim][rows].
    """
    raise NotImplementedError("only in kernels")


@overload(score_page, prefer_literal=True, strict=False)  # strict would compare annotations
def _score_page(name: Any, rows: Any, page: Any, head_dim: Any, queries: Any) -> Any:
    cache_type, count = CACHE_TYPES[name.literal_value], rows.literal_value
    score = inlined(_score_numbers(cache_type, count) if cache_type.number else _score_codes(cache_type, count))
    return lambda name, rows, page, head_dim, queries: score(page, head_dim, queries)


def _score_numbers(cache_type: CacheType, rows: int) -> Any:
    number, distance = cache_type.number, LANES * cache_type.number_bytes

    def score(page, head_dim, queries):
        total = zeros(rows)
        for _ in range(head_dim):
            total = fma(load_numbers(number, page), splats(queries, rows), total)
            page += distance
            queries += 4 * rows
        return total

    return score


def _score_codes(cache_type: CacheType, rows: int) -> Any:
    low, high = _CODES[cache_type.code_bits]
    half, half_distance = BLOCK // 2, LANES * (BLOCK // 2) if cache_type.code_bits == 8 else 0
    group_bytes = cache_type.group_bytes

    def score(page, head_dim, queries):
        total = zeros(rows)
        for _ in range(head_dim // BLOCK):
            codes = page + 2 * LANES
            sums = zeros(rows)
            for i in range(half):
                sums = fma(load_numbers(low, codes + i * LANES), splats(queries + i * (4 * rows), rows), sums)
            codes += half_distance
            queries += half * (4 * rows)
            for i in range(half):
                sums = fma(load_numbers(high, codes + i * LANES), splats(queries + i * (4 * rows), rows), sums)
            queries += half * (4 * rows)
            total = fma(sums, load_numbers("F16", page), total)
            page += group_bytes
        return total

    return score


# ---- values -----------------------------------------------------------------------------------


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
    weigh = inlined(_weigh_numbers(cache_type, count) if cache_type.number else _weigh_codes(cache_type, count))

    def weigh_column(name, rows, values, page_bytes, table, pages, column, weights, scaled):
        return weigh(values, page_bytes, table, pages, column, weights, scaled)

    return weigh_column


def _weigh_numbers(cache_type: CacheType, rows: int) -> Any:
    number, distance = cache_type.number, LANES * cache_type.number_bytes

    def weigh(values, page_bytes, table, pages, column, weights, scaled):
        total = zeros(rows)
        for index in range(pages):
            value = values + page_offset(table, index, page_bytes) + column * (PAGE * distance)
            for _ in range(PAGE):
                total = fma(load_numbers(number, value), splats_strided(weights, ROW_BYTES, rows), total)
                value += distance
                weights += 4
            weights += (rows - 1) * ROW_BYTES
        return total

    return weigh


def _weigh_codes(cache_type: CacheType, rows: int) -> Any:
    low, high = _CODES[cache_type.code_bits]
    column_bytes = PAGE * LANES if cache_type.code_bits == 8 else 0
    group_bytes = cache_type.group_bytes

    def weigh(values, page_bytes, table, pages, column, weights, scaled):
        values += column // 2 * group_bytes
        if column % 2 == 0:
            for index in range(pages):
                scales = load_numbers("F16", values + page_offset(table, index, page_bytes))
                for row in range(index * rows, (index + 1) * rows):
                    store(scaled + row * ROW_BYTES, load(weights + row * ROW_BYTES) * scales)
        total = zeros(rows)
        for index in range(pages):
            value = values + page_offset(table, index, page_bytes) + 2 * PAGE
            if column % 2 == 0:
                for _ in range(PAGE):
                    total = fma(load_numbers(low, value), splats_strided(scaled, ROW_BYTES, rows), total)
                    value += LANES
                    scaled += 4
            else:
                value += column_bytes
                for _ in range(PAGE):
                    total = fma(load_numbers(high, value), splats_strided(scaled, ROW_BYTES, rows), total)
                    value += LANES
                    scaled += 4
            scaled += (rows - 1) * ROW_BYTES
        return total

    return weigh


# ---- writing ----------------------------------------------------------------------------------


@kernel
def _bounded(values):
    """The nearest values that f16 can hold and that are finite."""
    above = where_below(values, splat(-_LARGEST_F16), splat(-_LARGEST_F16), values)
    return where_below(splat(_LARGEST_F16), values, splat(_LARGEST_F16), above)


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


@kernel
def _inverse(value):
    return splat(np.float32(1) / value if value != _NOTHING else _NOTHING)


@kernel
def _quantize_q8_0(values):
    """(scale, codes of the first 16 of 32 values, codes of the last 16), codes as the bytes of i32 lanes."""
    low, high = _bounded(load(values)), _bounded(load(values + 4 * LANES))
    scale = max_lanes(maximum(absolute(low), absolute(high))) / np.float32(127)
    inverse = _inverse(scale)
    return scale, round_even(low * inverse), round_even(high * inverse)


@kernel
def _quantize_q4_0(values):
    """(scale, 32 codes, two to a byte): the value of the largest magnitude has code 0, nothing has code 8."""
    low, high = _bounded(load(values)), _bounded(load(values + 4 * LANES))
    most, least = max_lanes(maximum(low, high)), -max_lanes(maximum(splat(_NOTHING) - low, splat(_NOTHING) - high))
    scale = (most if most > -least else least) / np.float32(-8)
    inverse, middle, last = _inverse(scale), splat(np.float32(8)), splat(np.float32(15))
    low_codes = round_even(minimum(low * inverse + middle, last))
    high_codes = round_even(minimum(high * inverse + middle, last))
    return scale, add(low_codes, shift_left(high_codes, 4))


def _key_writer(cache_type: CacheType) -> Any:
    """write(key, page, lane, head_dim): stores f32 [head_dim] as the position `lane` of a page."""
    if not cache_type.number:
        return _write_key_codes if cache_type.code_bits == 8 else _write_key_nibbles
    number, number_bytes, bounds = cache_type.number, cache_type.number_bytes, cache_type.number == "F16"

    def write_key(key, page, lane, head_dim):
        page += lane * number_bytes
        for _ in range(head_dim // LANES):
            numbers = _bounded(load(key)) if bounds else load(key)
            scatter_numbers(number, page, PAGE * number_bytes, numbers)
            key += 4 * LANES
            page += LANES * PAGE * number_bytes

    return write_key


def _write_key_codes(key, page, lane, head_dim):
    for _ in range(head_dim // BLOCK):
        scale, low, high = _quantize_q8_0(key)
        store_scalar_f16(page + 2 * lane, scale)
        codes = page + 2 * PAGE + lane
        scatter_bytes(codes, PAGE, low)
        scatter_bytes(codes + LANES * PAGE, PAGE, high)
        key += 4 * BLOCK
        page += PAGE * (2 + BLOCK)


def _write_key_nibbles(key, page, lane, head_dim):
    for _ in range(head_dim // BLOCK):
        scale, codes = _quantize_q4_0(key)
        store_scalar_f16(page + 2 * lane, scale)
        scatter_bytes(page + 2 * PAGE + lane, PAGE, codes)
        key += 4 * BLOCK
        page += PAGE * (2 + BLOCK // 2)


def _value_writer(cache_type: CacheType) -> Any:
    """write(value, page, lane, head_dim): stores f32 [head_dim] as the position `lane` of a page."""
    if not cache_type.number:
        return _write_value_codes if cache_type.code_bits == 8 else _write_value_nibbles
    number, distance, bounds = cache_type.number, LANES * cache_type.number_bytes, cache_type.number == "F16"

    def write_value(value, page, lane, head_dim):
        page += lane * distance
        for _ in range(head_dim // LANES):
            store_numbers(number, page, _bounded(load(value)) if bounds else load(value))
            value += 4 * LANES
            page += PAGE * distance

    return write_value


def _write_value_codes(value, page, lane, head_dim):
    for _ in range(head_dim // BLOCK):
        scale, low, high = _quantize_q8_0(value)
        store_scalar_f16(page + 2 * lane, scale)
        codes = page + 2 * PAGE + lane * LANES
        store_i8(codes, low)
        store_i8(codes + PAGE * LANES, high)
        value += 4 * BLOCK
        page += PAGE * (2 + BLOCK)


def _write_value_nibbles(value, page, lane, head_dim):
    for _ in range(head_dim // BLOCK):
        scale, codes = _quantize_q4_0(value)
        store_scalar_f16(page + 2 * lane, scale)
        store_i8(page + 2 * PAGE + lane * LANES, codes)
        value += 4 * BLOCK
        page += PAGE * (2 + BLOCK // 2)


def _value_clearer(cache_type: CacheType) -> Any:
    """clear(page, lane, head_dim): the positions from `lane` on become finite, for numbers and scales zero."""
    if cache_type.number:
        column_bytes, position_bytes = PAGE * LANES * cache_type.number_bytes, LANES * cache_type.number_bytes
        columns_in = LANES
    else:
        column_bytes, position_bytes, columns_in = cache_type.group_bytes, 2, BLOCK

    def clear_values(page, lane, head_dim):
        for _ in range(head_dim // columns_in):
            for byte in range(lane * position_bytes, PAGE * position_bytes):
                store_scalar_u8(page + byte, np.int32(0))
            page += column_bytes

    return clear_values


# By CacheType.name; a model needs those of its cache.
KEY_WRITERS = {name: Native(f"write keys {name}", "iiii", _key_writer(t)) for name, t in CACHE_TYPES.items()}
VALUE_WRITERS = {name: Native(f"write values {name}", "iiii", _value_writer(t)) for name, t in CACHE_TYPES.items()}
VALUE_CLEARERS = {name: Native(f"clear values {name}", "iii", _value_clearer(t)) for name, t in CACHE_TYPES.items()}
