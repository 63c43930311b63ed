"""Pages of codes under scales: q8_0 and q4_0, rounded as ggml rounds them.

For each 32 dimensions [16 positions] f16 scales, and then
    q8_0    keys int8 [32][16 positions]       values int8 [2 columns][16 positions][16]
    q4_0    keys [16][16 positions]            values [16 positions][16]
where a byte of q4_0 holds dimension i and, above it, i + 16. cache_pages.py chooses these functions by type.
"""

from typing import Any

import numpy as np

from worker.kernels.cache_types import PAGE, ROW_BYTES, CacheType, bounded, page_offset
from worker.kernels.codes import BLOCK
from worker.kernels.jit import kernel
from worker.kernels.memory import (
    load,
    scatter_bytes,
    splats,
    splats_strided,
    store,
    store_i8,
    store_scalar_f16,
    store_scalar_u8,
)
from worker.kernels.number_formats import load_from, load_numbers
from worker.kernels.simd import (
    LANES,
    absolute,
    add,
    fma,
    max_lanes,
    maximum,
    minimum,
    repeated,
    round_even,
    shift_left,
    splat,
    zeros,
)

_NOTHING = np.float32(0)

# Number formats that read 16 codes: those of the first 16 dimensions under a scale, and those of the last.
_CODES = {8: ("I8", "I8"), 4: ("LOW4", "HIGH4")}


def scorer(cache_type: CacheType, rows: int, count: int) -> Any:
    """score(pages, head_dim, queries), as cache_pages.score_pages; pages: a tuple of `count` addresses."""
    low, high = _CODES[cache_type.code_bits]
    half, half_distance = BLOCK // 2, LANES * (BLOCK // 2) if cache_type.code_bits == 8 else 0
    group_bytes, num_sums = cache_type.group_bytes, rows * count

    def score(pages, head_dim, queries):
        total = zeros(num_sums)
        for group in range(0, head_dim // BLOCK * group_bytes, group_bytes):
            codes = group + 2 * LANES
            sums = zeros(num_sums)
            for i in range(half):
                keys = repeated(load_from(low, pages, codes + i * LANES), rows)
                sums = fma(keys, splats(queries + i * (4 * rows), rows), sums)
            codes += half_distance
            queries += half * (4 * rows)
            for i in range(half):
                keys = repeated(load_from(high, pages, codes + i * LANES), rows)
                sums = fma(keys, splats(queries + i * (4 * rows), rows), sums)
            queries += half * (4 * rows)
            total = fma(sums, repeated(load_from("F16", pages, group), rows), total)
        return total

    return score


def weigher(cache_type: CacheType, rows: int, columns: int) -> Any:
    """weigh(values, page_bytes, table, pages, column, weights, scaled), as cache_pages.weigh_columns, of one column."""
    assert columns == 1, "columns have scales of their own"
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


@kernel
def _inverse(value):
    return splat(np.float32(1) / value if value != _NOTHING else _NOTHING)


@kernel
def _quantize_q8_0(values):
    """(scale, codes of the first 16 of 32 values, codes of the last 16), codes as the bytes of i32 lanes."""
    low, high = bounded(load(values)), bounded(load(values + 4 * LANES))
    scale = max_lanes(maximum(absolute(low), absolute(high))) / np.float32(127)
    inverse = _inverse(scale)
    return scale, round_even(low * inverse), round_even(high * inverse)


@kernel
def _quantize_q4_0(values):
    """(scale, 32 codes, two to a byte): the value of the largest magnitude has code 0, nothing has code 8."""
    low, high = bounded(load(values)), bounded(load(values + 4 * LANES))
    most, least = max_lanes(maximum(low, high)), -max_lanes(maximum(splat(_NOTHING) - low, splat(_NOTHING) - high))
    scale = (most if most > -least else least) / np.float32(-8)
    inverse, middle, last = _inverse(scale), splat(np.float32(8)), splat(np.float32(15))
    low_codes = round_even(minimum(low * inverse + middle, last))
    high_codes = round_even(minimum(high * inverse + middle, last))
    return scale, add(low_codes, shift_left(high_codes, 4))


def key_writer(cache_type: CacheType) -> Any:
    """write(key, page, lane, head_dim): stores f32 [head_dim] as the position `lane` of a page."""
    return _write_key_codes if cache_type.code_bits == 8 else _write_key_nibbles


def value_writer(cache_type: CacheType) -> Any:
    """write(value, page, lane, head_dim): stores f32 [head_dim] as the position `lane` of a page."""
    return _write_value_codes if cache_type.code_bits == 8 else _write_value_nibbles


def value_clearer(cache_type: CacheType) -> Any:
    """clear(page, lane, head_dim): the scales of the positions from `lane` on become zero."""
    group_bytes = cache_type.group_bytes

    def clear_values(page, lane, head_dim):
        for _ in range(head_dim // BLOCK):
            for byte in range(lane * 2, PAGE * 2):
                store_scalar_u8(page + byte, np.int32(0))
            page += group_bytes

    return clear_values


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
