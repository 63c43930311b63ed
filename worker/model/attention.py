"""Attention of a step: positions go into the cache, then tiles of rows are shared out to the threads.

forward.py calls these in order, with barriers between. Rows are (token, query head) pairs of one sequence and KV head.
Invariant: how rows are cut into tiles, and tiles into parts, decides who computes and never what.
"""

import numpy as np

from worker.kernels.attention import CHUNK, NARROW, WIDE
from worker.kernels.cache_types import PAGE, page_offset
from worker.kernels.jit import call, kernel
from worker.kernels.memory import load_scalar_i32
from worker.kernels.ops import add_row

# Sequences of so few new tokens have too few tiles for all threads: each chunk of a tile becomes a part of its own.
_FEW_TOKENS = 4

BUNDLE = 8  # tiles whose states a thread keeps at a time

_FEWEST, _MOST = NARROW[0], NARROW[-1]


@kernel
def _new_tokens(step, sequence):
    """(first row of a sequence among the step's tokens, how many it has, position of the first)."""
    start = np.int64(load_scalar_i32(step.starts + 4 * sequence))
    end = np.int64(load_scalar_i32(step.starts + 4 * sequence + 4))
    return start, end - start, np.int64(load_scalar_i32(step.contexts + 4 * sequence))


# ---- queries, keys and values -----------------------------------------------------------------


@kernel
def _prepare_head(model, layer, row, head, bias, norm, rotation):
    """Bias, norm and rotation of one query or key head, in place; bias points to all heads' biases."""
    if bias != 0:
        add_row(bias + head * model.head_dim * 4, row, model.head_dim)
    if norm != 0:
        call(model.norm_row, (row, norm, row, model.head_dim, model.epsilon))
    call(model.rotate, (row, model.num_rotated_pairs, rotation))


@kernel
def _prepare_token(model, layer, step, token, position, table, is_last, context, thread, num_threads):
    """Prepares this thread's heads of a token and writes their keys and values to the cache."""
    head_bytes = model.head_dim * 4
    row = step.qkv + token * (model.num_heads + 2 * model.num_kv_heads) * head_bytes
    rotation = layer.rotations + position * model.num_rotated_pairs * 8
    for head in range(model.num_heads + model.num_kv_heads):
        if (token + head) % num_threads != thread:
            continue
        if head < model.num_heads:
            bias = layer.attn_q_bias
            _prepare_head(model, layer, row + head * head_bytes, head, bias, layer.attn_q_norm, rotation)
            continue
        kv_head = head - model.num_heads
        key, value = row + head * head_bytes, row + (head + model.num_kv_heads) * head_bytes
        _prepare_head(model, layer, key, kv_head, layer.attn_k_bias, layer.attn_k_norm, rotation)
        if layer.attn_v_bias != 0:
            add_row(layer.attn_v_bias + kv_head * head_bytes, value, model.head_dim)
        _write_position(model, layer, key, value, kv_head, table, position, is_last, context)


@kernel
def _write_position(model, layer, key, value, kv_head, table, position, is_last, context):
    """Stores a position's key and value of one head.

    The last position of a step clears what follows it in a page that the step began: until somebody writes there, it
    holds the values of who had the page before.
    """
    call(model.keep_finite, (key, value, model.head_dim))
    index, lane = position // PAGE, position % PAGE
    head = kv_head * (model.key_page_bytes // model.num_kv_heads)
    page = layer.keys + page_offset(table, index, model.key_page_bytes) + head
    call(model.write_key, (key, page, lane, model.head_dim))
    head = kv_head * (model.value_page_bytes // model.num_kv_heads)
    page = layer.values + page_offset(table, index, model.value_page_bytes) + head
    call(model.write_value, (value, page, lane, model.head_dim))
    if is_last and position - lane >= context:
        call(model.clear_values, (page, lane + 1, model.head_dim))


@kernel
def prepare_attention(model, layer, step, thread, num_threads):
    """Queries, keys and values of all new tokens."""
    for sequence in range(step.num_sequences):
        start, num_tokens, context = _new_tokens(step, sequence)
        table = step.blocks + sequence * step.blocks_stride
        for i in range(num_tokens):
            is_last = i == num_tokens - 1
            _prepare_token(model, layer, step, start + i, context + i, table, is_last, context, thread, num_threads)


# ---- tiles ------------------------------------------------------------------------------------


@kernel
def cut_into_tiles(model, step, tiles):
    """Writes the step's tiles, wide ones first in each sequence."""
    group = model.num_heads // model.num_kv_heads
    narrow = min(max(group, _FEWEST), _MOST)
    num_tiles, num_parts = 0, 0
    for sequence in range(step.num_sequences):
        _, num_tokens, context = _new_tokens(step, sequence)
        num_chunks = (context + num_tokens - 1) // CHUNK + 1
        row = 0
        while row < num_tokens * group:
            tile = tiles[num_tiles]
            rows_left = num_tokens * group - row
            tile.is_wide = 1 if rows_left > narrow else 0
            tile.sequence, tile.first_row = sequence, row
            row += min(rows_left, WIDE if tile.is_wide else narrow)
            tile.end_row, tile.num_chunks, tile.first_part = row, num_chunks, -1
            parts = model.num_kv_heads * num_chunks * WIDE
            if num_tokens <= _FEW_TOKENS and num_parts + parts <= step.max_parts:
                tile.first_part = num_parts
                num_parts += parts
            num_tiles += 1
    step.num_tiles = num_tiles


@kernel
def _chunks_of(layer, tile, context, group):
    """(first chunk, end) of what a tile's rows see."""
    first_end = context + tile.first_row // group + 1
    first = max(0, first_end - layer.window) if layer.window > 0 else 0
    return first // CHUNK, (context + (tile.end_row - 1) // group) // CHUNK + 1


@kernel
def _part(step, model, tile, kv_head, chunk):
    """Address of the first row's state of a chunk of a tile that is split."""
    index = tile.first_part + (kv_head * tile.num_chunks + chunk) * WIDE
    return step.parts + index * model.state_bytes


@kernel
def _attend_chunk(model, layer, step, tile, kv_head, chunk, joins, states, thread):
    """Leaves the states of a tile's rows at `states`."""
    group, head_bytes = model.num_heads // model.num_kv_heads, model.head_dim * 4
    qkv_bytes = (model.num_heads + 2 * model.num_kv_heads) * head_bytes
    start, num_tokens, context = _new_tokens(step, tile.sequence)
    call(model.attend_wide if tile.is_wide else model.attend_narrow, (
        step.qkv + start * qkv_bytes + kv_head * group * head_bytes, qkv_bytes, tile.first_row, num_tokens * group,
        group, context, layer.window, model.head_dim,
        layer.keys + kv_head * (model.key_page_bytes // model.num_kv_heads), model.key_page_bytes,
        layer.values + kv_head * (model.value_page_bytes // model.num_kv_heads), model.value_page_bytes,
        step.blocks + tile.sequence * step.blocks_stride, chunk, np.int64(joins), states,
        step.scratch + thread * step.scratch_stride, model.attention_scale, model.attention_softcap,
    ))  # fmt: skip


@kernel
def _finish_rows(model, step, tile, kv_head, states, num_states, first, distance, thread):
    """Results of a tile's rows, of the tokens `first`, `first` + `distance` and so on, from their states."""
    group, head_bytes = model.num_heads // model.num_kv_heads, model.head_dim * 4
    start, _, _ = _new_tokens(step, tile.sequence)
    scratch = step.scratch + thread * step.scratch_stride
    for row in range(tile.first_row, tile.end_row):
        token = start + row // group
        if token % distance != first:
            continue
        head = token * model.num_heads + kv_head * group + row % group
        state = states + (row - tile.first_row) * model.state_bytes
        call(model.finish_row, (
            state, num_states, WIDE * model.state_bytes, step.attention + head * head_bytes, model.head_dim, scratch
        ))  # fmt: skip


@kernel
def _attend_together(model, layer, step, tiles, first_tile, end_tile, kv_head, thread):
    """Attention of neighbouring tiles of a sequence, chunk by chunk, so that a chunk is read into the cache once."""
    group = model.num_heads // model.num_kv_heads
    _, _, context = _new_tokens(step, tiles[first_tile].sequence)
    states = step.scratch + thread * step.scratch_stride + step.states_offset
    tile_bytes = WIDE * model.state_bytes
    begin, _ = _chunks_of(layer, tiles[first_tile], context, group)
    _, end = _chunks_of(layer, tiles[end_tile - 1], context, group)
    for chunk in range(begin, end):
        for index in range(first_tile, end_tile):
            first_chunk, last_chunk = _chunks_of(layer, tiles[index], context, group)
            if first_chunk <= chunk < last_chunk:
                place = states + (index - first_tile) * tile_bytes
                _attend_chunk(model, layer, step, tiles[index], kv_head, chunk, chunk > first_chunk, place, thread)
    for index in range(first_tile, end_tile):
        place = states + (index - first_tile) * tile_bytes
        _finish_rows(model, step, tiles[index], kv_head, place, 1, 0, 1, thread)


@kernel
def _end_of_bundle(step, tiles, first_tile, num_kv_heads, num_threads):
    """End of the tiles of one sequence that a thread takes together: not so many that another has nothing to do."""
    at_once = max(1, min(BUNDLE, step.num_tiles * num_kv_heads // (4 * num_threads)))
    end = first_tile + 1
    while end < min(step.num_tiles, first_tile + at_once) and tiles[end].sequence == tiles[first_tile].sequence:
        end += 1
    return end


@kernel
def attend(model, layer, step, tiles, thread, num_threads):
    """Attention of all new tokens; bundles of tiles, or the parts of tiles, go to the threads in turn."""
    group = model.num_heads // model.num_kv_heads
    turn, index = 0, 0
    while index < step.num_tiles:
        tile = tiles[index]
        if tile.first_part < 0:
            end = _end_of_bundle(step, tiles, index, model.num_kv_heads, num_threads)
            for kv_head in range(model.num_kv_heads):
                if turn % num_threads == thread:
                    _attend_together(model, layer, step, tiles, index, end, kv_head, thread)
                turn += 1
            index = end
            continue
        _, _, context = _new_tokens(step, tile.sequence)
        first_chunk, last_chunk = _chunks_of(layer, tile, context, group)
        for kv_head in range(model.num_kv_heads):
            for chunk in range(first_chunk, last_chunk):
                if turn % num_threads == thread:
                    part = _part(step, model, tile, kv_head, chunk)
                    _attend_chunk(model, layer, step, tile, kv_head, chunk, False, part, thread)
                turn += 1
        index += 1


@kernel
def finish_attention(model, layer, step, tiles, first, distance, thread):
    """Joins the parts of split tiles, for the tokens `first`, `first` + `distance` and so on."""
    group = model.num_heads // model.num_kv_heads
    for index in range(step.num_tiles):
        tile = tiles[index]
        if tile.first_part < 0:
            continue
        _, _, context = _new_tokens(step, tile.sequence)
        first_chunk, last_chunk = _chunks_of(layer, tile, context, group)
        for kv_head in range(model.num_kv_heads):
            part = _part(step, model, tile, kv_head, first_chunk)
            _finish_rows(model, step, tile, kv_head, part, last_chunk - first_chunk, first, distance, thread)
