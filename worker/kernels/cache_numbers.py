"""Pages of numbers that are stored each by itself: f32, f16, bf16.

    keys [head_dim][16 positions]       values [head_dim / 16][16 positions][16]

cache_pages.py chooses these functions by type. Invariant: what is written as f16 is finite, if it was.
"""

from typing import Any

import numpy as np

from worker.kernels.cache_types import PAGE, ROW_BYTES, CacheType, bounded, page_offset
from worker.kernels.memory import load, splats, splats_strided, store_scalar_u8
from worker.kernels.number_formats import load_each, load_from, scatter_numbers, store_numbers
from worker.kernels.simd import LANES, fma, repeated, zeros


def scorer(cache_type: CacheType, rows: int, count: int) -> Any:
    """score(pages, head_dim, queries), as cache_pages.score_pages; pages: a tuple of `count` addresses."""
    number, distance, num_sums = cache_type.number, LANES * cache_type.number_bytes, rows * count

    def score(pages, head_dim, queries):
        total = zeros(num_sums)
        for place in range(0, head_dim * distance, distance):
            total = fma(repeated(load_from(number, pages, place), rows), splats(queries, rows), total)
            queries += 4 * rows
        return total

    return score


def weigher(cache_type: CacheType, rows: int, columns: int) -> Any:
    """weigh(values, page_bytes, table, pages, column, weights, scaled), as cache_pages.weigh_columns."""
    number, distance, num_sums = cache_type.number, LANES * cache_type.number_bytes, rows * columns
    column_bytes = PAGE * distance

    def weigh(values, page_bytes, table, pages, column, weights, scaled):
        total = zeros(num_sums)
        for index in range(pages):
            value = values + page_offset(table, index, page_bytes) + column * column_bytes
            for _ in range(PAGE):
                numbers = load_each(number, value, column_bytes, columns)
                total = fma(repeated(numbers, rows), splats_strided(weights, ROW_BYTES, rows), total)
                value += distance
                weights += 4
            weights += (rows - 1) * ROW_BYTES
        return total

    return weigh


def key_writer(cache_type: CacheType) -> Any:
    """write(key, page, lane, head_dim): stores f32 [head_dim] as the position `lane` of a page."""
    number, number_bytes, bounds = cache_type.number, cache_type.number_bytes, cache_type.number == "F16"

    def write_key(key, page, lane, head_dim):
        page += lane * number_bytes
        for _ in range(head_dim // LANES):
            numbers = bounded(load(key)) if bounds else load(key)
            scatter_numbers(number, page, PAGE * number_bytes, numbers)
            key += 4 * LANES
            page += LANES * PAGE * number_bytes

    return write_key


def value_writer(cache_type: CacheType) -> Any:
    """write(value, page, lane, head_dim): stores f32 [head_dim] as the position `lane` of a page."""
    number, distance, bounds = cache_type.number, LANES * cache_type.number_bytes, cache_type.number == "F16"

    def write_value(value, page, lane, head_dim):
        page += lane * distance
        for _ in range(head_dim // LANES):
            store_numbers(number, page, bounded(load(value)) if bounds else load(value))
            value += 4 * LANES
            page += PAGE * distance

    return write_value


def value_clearer(cache_type: CacheType) -> Any:
    """clear(page, lane, head_dim): the positions from `lane` on become zero."""
    position_bytes = LANES * cache_type.number_bytes
    column_bytes = PAGE * position_bytes

    def clear_values(page, lane, head_dim):
        for _ in range(head_dim // LANES):
            for byte in range(lane * position_bytes, PAGE * position_bytes):
                store_scalar_u8(page + byte, np.int32(0))
            page += column_bytes

    return clear_values
