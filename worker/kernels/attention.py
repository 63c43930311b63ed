"""The paged key-value cache and attention over it.

A cache block holds 16 positions of one layer and one KV head: keys as [head_dim][16 positions], so that 16 scores lie
in the lanes of a vector without a transpose, and values as [16 positions][head_dim]; both f16.

The query heads that share a KV head, and neighbouring tokens, are computed together as rows of a tile. A row's
arithmetic runs over the positions in order and is the same in any tile: what lies at positions that a row does not see
has no part in it.
"""

import numpy as np

from worker.kernels.jit import kernel, native
from worker.kernels.ops import cap, exp
from worker.kernels.simd import (
    LANES,
    fma,
    load,
    load_f16,
    load_rows,
    load_scalar,
    load_scalar_i32,
    load_scalar_i64,
    max_lanes,
    maximum,
    pick,
    select_below,
    splat,
    splats,
    splats_strided,
    store,
    store_rows,
    store_scalar,
    store_scalar_f16,
    sum_lanes,
    zeros,
)

BLOCK_SIZE = LANES  # positions in a cache block
ROW_TILE = 4  # query rows computed together
HALF = 2  # bytes of an f16
SEGMENT = 128  # positions whose values are weighed before the next ones are read

_NO_SCORE = np.float32(-np.inf)


@native("iiiiii")
def write_key_value(key, value, keys, values, position, head_dim):
    """Stores one head of one token, f32 [head_dim] each, in its cache block; keys, values: addresses of the block."""
    lane = position % BLOCK_SIZE
    for i in range(head_dim):
        store_scalar_f16(keys + (i * BLOCK_SIZE + lane) * HALF, load_scalar(key + 4 * i))
        store_scalar_f16(values + (lane * head_dim + i) * HALF, load_scalar(value + 4 * i))


@kernel
def block_address(table, position, block_bytes):
    """Offset of the cache block of a position; table: address of the sequence's i32 block numbers."""
    return np.int64(load_scalar_i32(table + position // BLOCK_SIZE * 4)) * block_bytes


@kernel
def gather_queries(queries, head_dim, scale, out):
    """ROW_TILE rows f32 [head_dim] at addresses queries[0..3] -> out [head_dim][ROW_TILE], scaled."""
    for row in range(ROW_TILE):
        source = queries[row]
        for i in range(head_dim):
            store_scalar(out + (i * ROW_TILE + row) * 4, load_scalar(source + 4 * i) * scale)


@kernel
def score_rows(queries, head_dim, keys, table, block_bytes, lows, limits, first, end, softcap, scores, stride):
    """scores[row][position - first] = query . key for positions first to end, or -inf where the row does not see.

    queries: [head_dim][ROW_TILE]; row r sees positions lows[r] to limits[r], both growing with r; first: a block's
    start; softcap: 0 for none; scores: f32 rows `stride` bytes apart.
    """
    last = ROW_TILE - 1
    for position in range(first, end, BLOCK_SIZE):
        key = keys + block_address(table, position, block_bytes)
        total = zeros(ROW_TILE)
        for i in range(head_dim):
            total = fma(load_f16(key + i * (BLOCK_SIZE * HALF)), splats(queries + i * (ROW_TILE * 4), ROW_TILE), total)
        place = scores + 4 * (position - first)
        store_rows(place, stride, total)
        if softcap > np.float32(0):
            for row in range(ROW_TILE):
                store(place + row * stride, cap(load(place + row * stride), softcap))
        if position + BLOCK_SIZE > limits[0] or position < lows[last]:
            for row in range(ROW_TILE):
                at = place + row * stride
                seen = select_below(np.int32(limits[row] - position), load(at), splat(_NO_SCORE))
                store(at, select_below(np.int32(lows[row] - position), splat(_NO_SCORE), seen))


@kernel
def soften(scores, num_positions):
    """Turns a row of scores, whole blocks, into e^(score - largest); the sum of these."""
    largest = load(scores)
    for position in range(BLOCK_SIZE, num_positions, BLOCK_SIZE):
        largest = maximum(largest, load(scores + 4 * position))
    top = splat(max_lanes(largest))
    total = pick(zeros(1), 0)
    for position in range(0, num_positions, BLOCK_SIZE):
        weight = exp(load(scores + 4 * position) - top)
        store(scores + 4 * position, weight)
        total = total + weight
    return sum_lanes(total)


@kernel
def weigh_edges(scores, stride, values, table, block_bytes, first, begin, end, lows, limits, head_dim, sums):
    """Adds to sums for the blocks from begin to end, row by row: a row reads no value that it does not see."""
    for position in range(begin, end, BLOCK_SIZE):
        block = values + block_address(table, position, block_bytes)
        for row in range(ROW_TILE):
            weights = scores + row * stride + 4 * (position - first)
            low, limit = max(0, lows[row] - position), min(BLOCK_SIZE, limits[row] - position)
            for column in range(head_dim // LANES):
                place = sums + (column * ROW_TILE + row) * (4 * LANES)
                total = load(place)
                for i in range(low, limit):
                    value = load_f16(block + (i * head_dim + column * LANES) * HALF)
                    total = fma(value, splat(load_scalar(weights + 4 * i)), total)
                store(place, total)


@kernel
def weigh_values(scores, stride, values, table, block_bytes, first, begin, end, head_dim, sums):
    """Adds to sums for the blocks from begin to end, which all rows see whole.

    Runs over SEGMENT positions at a time, because columns are read one vector after the other and the values must still
    be in the first-level cache for the next; the sums wait in memory, which changes no bit.
    """
    for segment in range(begin, end, SEGMENT):
        segment_end = min(end, segment + SEGMENT)
        for column in range(head_dim // LANES):
            place = sums + column * (ROW_TILE * 4 * LANES)
            total = load_rows(place, 4 * LANES, ROW_TILE)
            for position in range(segment, segment_end, BLOCK_SIZE):
                value = values + block_address(table, position, block_bytes) + column * (LANES * HALF)
                weight = scores + 4 * (position - first)
                for _ in range(BLOCK_SIZE):
                    total = fma(load_f16(value), splats_strided(weight, stride, ROW_TILE), total)
                    value += head_dim * HALF
                    weight += 4
            store_rows(place, 4 * LANES, total)


@kernel
def sum_values(scores, stride, values, table, block_bytes, lows, limits, first, end, head_dim, sums):
    """sums[column / 16][row] = sum over positions first to end of weight * value, vectors of 16 columns.

    Positions that a row does not see may hold anything, infinities of another sequence too: no weight makes these 0.
    """
    for column in range(head_dim // LANES):
        store_rows(sums + column * (ROW_TILE * 4 * LANES), 4 * LANES, zeros(ROW_TILE))
    begin_whole = min(end, (lows[ROW_TILE - 1] + BLOCK_SIZE - 1) // BLOCK_SIZE * BLOCK_SIZE)
    end_whole = max(begin_whole, limits[0] // BLOCK_SIZE * BLOCK_SIZE)
    weigh_edges(scores, stride, values, table, block_bytes, first, first, begin_whole, lows, limits, head_dim, sums)
    weigh_values(scores, stride, values, table, block_bytes, first, begin_whole, end_whole, head_dim, sums)
    weigh_edges(scores, stride, values, table, block_bytes, first, end_whole, end, lows, limits, head_dim, sums)


@native("iiiiiiiiiiiiiiiiiii")
def attend_rows(
    q0, q1, q2, q3, l0, l1, l2, l3, o0, o1, o2, o3, head_dim, keys, values, table, block_bytes, window, scratch
):
    """Attention of ROW_TILE rows of one KV head.

    q: addresses of the rows' queries, f32 [head_dim]; l: positions before which each row sees, growing; o: addresses of
    the results, f32 [head_dim]; keys, values: this layer's and head's cache; window: positions a row sees, 0 for all;
    scratch: the stride of score rows in bytes (i64), the scale of queries and the soft cap of scores (f32), then from
    byte 64 on [head_dim][ROW_TILE] f32, ROW_TILE score rows, and [head_dim][ROW_TILE] f32 again.
    """
    queries, limits, outputs = (q0, q1, q2, q3), (l0, l1, l2, l3), (o0, o1, o2, o3)
    span = window if window > 0 else l3
    lows = (max(0, l0 - span), max(0, l1 - span), max(0, l2 - span), max(0, l3 - span))
    stride, scale, softcap = load_scalar_i64(scratch), load_scalar(scratch + 8), load_scalar(scratch + 12)
    scratch += 64
    scores = scratch + 4 * ROW_TILE * head_dim
    first = lows[0] // BLOCK_SIZE * BLOCK_SIZE
    end = (l3 + BLOCK_SIZE - 1) // BLOCK_SIZE * BLOCK_SIZE
    gather_queries(queries, head_dim, scale, scratch)
    score_rows(scratch, head_dim, keys, table, block_bytes, lows, limits, first, end, softcap, scores, stride)
    weight_sums = scratch  # the queries are read; their place holds these now
    for row in range(ROW_TILE):
        store_scalar(weight_sums + 4 * row, np.float32(1) / soften(scores + row * stride, end - first))
    sums = scores + ROW_TILE * stride
    sum_values(scores, stride, values, table, block_bytes, lows, limits, first, end, head_dim, sums)
    for column in range(head_dim // LANES):
        total = load_rows(sums + column * (ROW_TILE * 4 * LANES), 4 * LANES, ROW_TILE) * splats(weight_sums, ROW_TILE)
        store(outputs[0] + column * (4 * LANES), pick(total, 0))
        store(outputs[1] + column * (4 * LANES), pick(total, 1))
        store(outputs[2] + column * (4 * LANES), pick(total, 2))
        store(outputs[3] + column * (4 * LANES), pick(total, 3))
