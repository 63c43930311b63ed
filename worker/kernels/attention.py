"""Attention over the paged key-value cache.

The query heads that share a KV head, and neighbouring tokens, are computed together as rows of a tile. Positions are
cut into chunks of 256: a row's chunks are computed each by itself and then joined in order, so that different threads
can take them. A row's arithmetic is the same in any tile, and what lies at positions that it does not see has no part
in it.

The state of a row, of one chunk or of several joined, is f32: [head_dim] the weighted sum of values, [16] the sum of
weights in every lane, and the largest score, from which the weights were taken (the online softmax of
FlashAttention-2, arXiv 2307.08691).
"""

import numpy as np

from worker.kernels.cache_pages import keys_abreast, score_pages, values_abreast, weigh_columns
from worker.kernels.cache_types import CACHE_TYPES, PAGE, ROW_BYTES, page_offset
from worker.kernels.instruction_sets import INSTRUCTION_SET
from worker.kernels.jit import Native, kernel, native
from worker.kernels.memory import (
    load,
    load_scalar,
    load_scalar_i64,
    prefetch,
    store,
    store_columns,
    store_rows,
    store_scalar,
    store_scalar_i64,
)
from worker.kernels.ops import cap, exp
from worker.kernels.simd import LANES, fma, max_lanes, maximum, select_below, splat, sum_lanes

CHUNK = 256  # positions whose scores are computed before their values are read
WIDE = INSTRUCTION_SET.attention_rows  # whose sums stay in registers
NARROW = (2, 3, 4)  # rows of the tiles for what is left, and for single tokens

_NOTHING, _NO_SCORE = np.float32(0), np.float32(-np.inf)
_LINE = 64  # bytes of a cache line


def narrow_rows(group: int) -> int:
    """Rows of the smaller tile for `group` query heads to a KV head."""
    return min(max(group, NARROW[0]), NARROW[-1])


def state_bytes(head_dim: int) -> int:
    """Of one row, to the next one."""
    return 4 * head_dim + 2 * 4 * LANES


def scratch_bytes(head_dim: int) -> int:
    """What `attend` needs: for WIDE rows limits, queries, weights of a chunk twice, and states."""
    return WIDE * (_LINE + 4 * head_dim + 2 * 4 * CHUNK + state_bytes(head_dim))


@kernel
def _gather(query, stride, first_row, num_rows, group, context, window, head_dim, scale, rows, queries, limits):
    """Copies the rows' queries to [head_dim][rows], scaled, and writes to limits what each row sees: first, end.

    What a tile has beyond num_rows repeats the last row.
    """
    for place in range(rows):
        row = min(first_row + place, num_rows - 1)
        source = query + row // group * stride + row % group * (4 * head_dim)
        for i in range(head_dim):
            store_scalar(queries + (i * rows + place) * 4, load_scalar(source + 4 * i) * scale)
        end = context + row // group + 1
        store_scalar_i64(limits + 16 * place, max(0, end - window) if window > 0 else 0)
        store_scalar_i64(limits + 16 * place + 8, end)


@kernel
def _mask(scores, rows, limits, position):
    """Takes the scores of a page that begins at `position` from the rows that do not see them."""
    for row in range(rows):
        place = scores + row * ROW_BYTES
        first, end = load_scalar_i64(limits + 16 * row), load_scalar_i64(limits + 16 * row + 8)
        if position < first or position + PAGE > end:
            seen = select_below(np.int32(end - position), load(place), splat(_NO_SCORE))
            store(place, select_below(np.int32(first - position), splat(_NO_SCORE), seen))


@kernel
def _cap_scores(scores, rows, softcap):
    for row in range(rows):
        store(scores + row * ROW_BYTES, cap(load(scores + row * ROW_BYTES), softcap))


@kernel
def soften(scores, stride, pages):
    """Turns a row of scores, `stride` bytes from page to page, into e^(score - largest); (largest, sum of these).

    A row that sees nothing has largest -inf and only weights of 0.
    """
    largest = load(scores)
    for page in range(1, pages):
        largest = maximum(largest, load(scores + page * stride))
    top = max_lanes(largest)
    base = splat(_NOTHING if top == _NO_SCORE else top)
    total = splat(_NOTHING)
    for page in range(pages):
        weight = exp(load(scores + page * stride) - base)
        store(scores + page * stride, weight)
        total = total + weight
    return top, sum_lanes(total)


@kernel
def join(state, other, head_dim):
    """Adds the state of later positions to a row's state."""
    tail = 4 * (head_dim + LANES)
    top, other_top = load_scalar(state + tail), load_scalar(other + tail)
    if other_top == _NO_SCORE:
        return
    if top == _NO_SCORE:
        _copy(other, state, tail + 4 * LANES)
        return
    highest = top if top > other_top else other_top
    factor, other_factor = exp(splat(top - highest)), exp(splat(other_top - highest))
    for place in range(0, tail, 4 * LANES):
        store(state + place, fma(load(other + place), other_factor, load(state + place) * factor))
    store_scalar(state + tail, highest)


@kernel
def _copy(source, target, num_bytes):
    for place in range(0, num_bytes, 4 * LANES):
        store(target + place, load(source + place))


@kernel
def _fetch(page, num_bytes):
    for line in range(0, num_bytes, _LINE):
        prefetch(page + line)


def _attend(key_type: str, value_type: str, rows: int) -> Native:
    key_column_bytes = CACHE_TYPES[key_type].page_bytes(2 * LANES) // 2
    value_column_bytes = CACHE_TYPES[value_type].page_bytes(2 * LANES) // 2
    pages_abreast, columns_abreast = keys_abreast(key_type, rows), values_abreast(value_type, rows)

    def attend(
        query, query_stride, first_row, num_rows, group, context, window, head_dim, keys, key_bytes, values,
        value_bytes, table, chunk, joins, states, scratch, scale, softcap,
    ):  # fmt: skip
        limits, queries = scratch, scratch + rows * _LINE
        scores = queries + 4 * rows * head_dim
        scaled, spare = scores + 4 * rows * CHUNK, scores + 8 * rows * CHUNK
        state_stride, page_scores = 4 * head_dim + 8 * LANES, rows * ROW_BYTES
        key_page_bytes, value_page_bytes = head_dim // LANES * key_column_bytes, head_dim // LANES * value_column_bytes
        _gather(
            query, query_stride, first_row, num_rows, group, context, window, head_dim, scale, rows, queries, limits)
        first, first_end = load_scalar_i64(limits), load_scalar_i64(limits + 8)  # of the row that sees the least
        last_first, end = load_scalar_i64(limits + 16 * (rows - 1)), load_scalar_i64(limits + 16 * (rows - 1) + 8)
        first_page = max(chunk * CHUNK, first) // PAGE
        pages = (min((chunk + 1) * CHUNK, end) + PAGE - 1) // PAGE - first_page
        table += 4 * first_page
        whole = pages - pages % pages_abreast
        for index in range(0, whole, pages_abreast):
            if num_rows <= 2 * rows:  # no other tile has brought them near
                for page in range(index, index + pages_abreast):
                    following = min(page + pages_abreast, pages - 1)
                    _fetch(keys + page_offset(table, following, key_bytes), key_page_bytes)
                    _fetch(values + page_offset(table, page, value_bytes), value_page_bytes)
            store_rows(scores + index * page_scores, ROW_BYTES, score_pages(
                key_type, rows, pages_abreast, keys, key_bytes, table, index, head_dim, queries))
        for index in range(whole, pages):
            store_rows(scores + index * page_scores, ROW_BYTES, score_pages(
                key_type, rows, 1, keys, key_bytes, table, index, head_dim, queries))
        for index in range(pages):
            place = scores + index * page_scores
            if softcap > _NOTHING:
                _cap_scores(place, rows, softcap)
            position = (first_page + index) * PAGE
            if position < last_first or position + PAGE > first_end:
                _mask(place, rows, limits, position)
        state = spare if joins else states
        for row in range(rows):
            top, total = soften(scores + row * ROW_BYTES, page_scores, pages)
            store(state + row * state_stride + 4 * head_dim, splat(total))
            store_scalar(state + row * state_stride + 4 * (head_dim + LANES), top)
        whole = head_dim // LANES - head_dim // LANES % columns_abreast
        for column in range(0, whole, columns_abreast):
            store_columns(state + column * (4 * LANES), state_stride, rows, weigh_columns(
                value_type, rows, columns_abreast, values, value_bytes, table, pages, column, scores, scaled))
        for column in range(whole, head_dim // LANES):
            store_rows(state + column * (4 * LANES), state_stride, weigh_columns(
                value_type, rows, 1, values, value_bytes, table, pages, column, scores, scaled))
        if joins:
            for row in range(rows):
                join(states + row * state_stride, spare + row * state_stride, head_dim)

    return Native(f"attention {key_type} {value_type} {rows}", "i" * 17 + "ff", attend)


# By (type of keys, type of values, rows); a model needs two of them.
#
# attend(query, query_stride, first_row, num_rows, group, context, window, head_dim, keys, key_bytes, values,
#        value_bytes, table, chunk, joins, states, scratch, scale, softcap)
# computes the rows from first_row on, as many as the tile has, of the num_rows of a sequence and KV head: row r is
# query head r % group of token r // group, which stands at position context + r // group.
#   query, query_stride     address of row 0, f32 [head_dim]; bytes between tokens
#   window                  positions that a row sees; 0: all
#   keys, values            the head's first page in this layer; then the bytes from one page of the cache to the next
#   table                   the sequence's i32 page numbers
#   chunk                   which one, counted from position 0
#   states, joins           where the rows' states of this chunk go; whether to be joined with what stands there
#   scratch                 scratch_bytes
#   softcap                 0: none
ATTEND: dict[tuple[str, str, int], Native] = {
    (key_type, value_type, rows): _attend(key_type, value_type, rows)
    for key_type in CACHE_TYPES
    for value_type in CACHE_TYPES
    for rows in sorted({WIDE, *NARROW})
}


@native("iiiiii")
def finish_row(states, num_states, distance, out, head_dim, scratch):
    """out = f32 [head_dim], a row's attention, from its states `distance` bytes apart, in order of position.

    scratch: state_bytes.
    """
    state = states
    if num_states > 1:
        state = scratch
        _copy(states, state, 4 * head_dim + 8 * LANES)
        for index in range(1, num_states):
            join(state, states + index * distance, head_dim)
    inverse = splat(np.float32(1)) / load(state + 4 * head_dim)
    for place in range(0, 4 * head_dim, 4 * LANES):
        store(out + place, load(state + place) * inverse)

