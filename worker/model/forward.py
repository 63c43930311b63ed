"""The transformer, read from the bottom up: one native call computes a step of many sequences, layer after layer.

All threads run `_share` of the same step and meet at barriers; Python sees neither layers nor tokens. Invariant: a
token's result depends on its sequence alone, never on what else the step holds, on how its prompt was cut into steps,
or on the number of threads.
"""

from typing import Any

import numba
import numpy as np
from numba import types

from worker.kernels.activations import quantize_row
from worker.kernels.attention import BLOCK_SIZE, HALF, ROW_TILE, attend_rows, block_address, write_key_value
from worker.kernels.jit import call, entry, kernel
from worker.kernels.matmul import matmul
from worker.kernels.ops import (
    add_normed_row,
    add_row,
    cap_row,
    copy_row,
    norm_quantize_row,
    norm_row,
    read_row,
    scale_row,
)
from worker.kernels.pool import barrier, num_participants, start_step, wait_for_step
from worker.kernels.simd import LANES, load_scalar_i32
from worker.model.layout import LAYER, STEP, model_record

# Steps of so few tokens prepare a product's input in every thread for itself, which is cheaper than meeting.
FEW_TOKENS = 4

# Native code that every model needs, and what depends on the family and the formats, filled in by decoder.py.
NATIVES = (norm_row, norm_quantize_row, add_normed_row, quantize_row, write_key_value, attend_rows, barrier)
CHOSEN_NATIVES = ("read_row", "rotate", "gated_row", "gated_quantize_row")

MODEL = model_record([*(native.name for native in NATIVES), *CHOSEN_NATIVES])


def _array_of(dtype: Any) -> Any:
    return types.Array(numba.from_dtype(dtype), 1, "C")


@kernel
def _meet(model, control, num_threads):
    """Returns when all threads of the step have come here."""
    if num_threads > 1:
        call(model.barrier, (control, num_threads))


# ---- a product's input ------------------------------------------------------------------------


@kernel
def _input_of(step, num_tokens, thread):
    """(values, codes, factors) that this thread reads: its own for few tokens, else thread 0's, which all fill."""
    owner = thread if num_tokens <= FEW_TOKENS else 0
    base = step.inputs + owner * step.inputs_stride
    return base, base + step.codes_offset, base + step.factors_offset


@kernel
def _shares(num_tokens, thread, num_threads):
    """(first token, distance to the next) that this thread prepares."""
    if num_tokens <= FEW_TOKENS:
        return 0, 1
    return thread, num_threads


@kernel
def _meet_if_shared(model, control, num_tokens, num_threads):
    if num_tokens > FEW_TOKENS:
        _meet(model, control, num_threads)


@kernel
def _norm_into(model, row, weight, inputs, token, num_tokens):
    """A token's norm, in the forms that the model's formats want."""
    values, codes, factors = inputs
    call(model.norm_quantize_row, (row, weight, model.width, model.epsilon, codes, factors, token, num_tokens))
    if model.needs_values:
        call(model.norm_row, (row, weight, values + token * model.width * 4, model.width, model.epsilon))


@kernel
def _normed_input(model, step, weight, control, thread, num_threads):
    """Norm of the residual stream, as input of products."""
    num_tokens = step.num_tokens
    inputs = _input_of(step, num_tokens, thread)
    first, distance = _shares(num_tokens, thread, num_threads)
    for token in range(first, num_tokens, distance):
        _norm_into(model, step.hidden + token * model.width * 4, weight, inputs, token, num_tokens)
    _meet_if_shared(model, control, num_tokens, num_threads)


@kernel
def _attention_input(model, step, control, thread, num_threads):
    """The attention's result, as input of attn_output."""
    num_tokens, width = step.num_tokens, model.num_heads * model.head_dim
    values, codes, factors = _input_of(step, num_tokens, thread)
    first, distance = _shares(num_tokens, thread, num_threads)
    for token in range(first, num_tokens, distance):
        row = step.attention + token * width * 4
        call(model.quantize_row, (row, width, codes, factors, token, num_tokens))
        if model.needs_values:
            copy_row(row, values + token * width * 4, width)
    _meet_if_shared(model, control, num_tokens, num_threads)


@kernel
def _gated_input(model, step, control, thread, num_threads):
    """activation(gate) * up, as input of ffn_down."""
    num_tokens, width = step.num_tokens, model.hidden_width
    values, codes, factors = _input_of(step, num_tokens, thread)
    first, distance = _shares(num_tokens, thread, num_threads)
    for token in range(first, num_tokens, distance):
        gate = step.gate_up + token * width * 8
        call(model.gated_quantize_row, (gate, gate + width * 4, width, codes, factors, token, num_tokens))
        if model.needs_values:
            call(model.gated_row, (gate, gate + width * 4, values + token * width * 4, width))
    _meet_if_shared(model, control, num_tokens, num_threads)


@kernel
def _product(matrix, step, num_tokens, out, out_width, adds, thread, num_threads):
    """out[token] = or += matrix * input, for this thread's rows; out_width in f32 values."""
    values, codes, factors = _input_of(step, num_tokens, thread)
    matmul(matrix, values, codes, factors, out, out_width * 4, adds, num_tokens, thread, num_threads)


@kernel
def _join_residual(model, step, matrix, norm, control, thread, num_threads):
    """Adds matrix * input to the residual stream, through a norm if there is one; all threads meet at the end."""
    num_tokens, width = step.num_tokens, model.width
    if norm == 0:
        _product(matrix, step, num_tokens, step.hidden, width, True, thread, num_threads)
    else:
        _product(matrix, step, num_tokens, step.projected, width, False, thread, num_threads)
        _meet(model, control, num_threads)
        for token in range(thread, num_tokens, num_threads):
            row = token * width * 4
            call(model.add_normed_row, (step.projected + row, norm, step.hidden + row, width, model.epsilon))
    _meet(model, control, num_threads)


# ---- attention --------------------------------------------------------------------------------


@kernel
def _prepare_head(model, layer, row, head, bias, norm, rotation):
    """Bias, norm and rotation of one query or key head, in place; bias points to all heads' biases."""
    if bias != 0:
        add_row(bias + head * model.head_dim * 4, row, model.head_dim)
    if norm != 0:
        call(model.norm_row, (row, norm, row, model.head_dim, model.epsilon))
    call(model.rotate, (row, model.num_rotated_pairs, rotation))


@kernel
def _prepare_token(model, layer, step, token, position, table, thread, num_threads):
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
        place = block_address(table, position, model.cache_block_bytes) + kv_head * model.head_dim * (BLOCK_SIZE * HALF)
        call(model.write_key_value,
             (key, value, layer.keys + place, layer.values + place, np.int64(position), model.head_dim))


@kernel
def _prepare_attention(model, layer, step, thread, num_threads):
    """Queries, keys and values of all new tokens."""
    for sequence in range(step.num_sequences):
        start, end = load_scalar_i32(step.starts + 4 * sequence), load_scalar_i32(step.starts + 4 * sequence + 4)
        context = load_scalar_i32(step.contexts + 4 * sequence)
        table = step.blocks + sequence * step.blocks_stride
        for token in range(start, end):
            _prepare_token(model, layer, step, np.int64(token), np.int64(context + token - start), table,
                           thread, num_threads)


@kernel
def _attend_tile(model, layer, step, sequence, kv_head, first_row, num_rows, thread):
    """Rows first_row .. of (token, query head of kv_head) pairs of one sequence; the last tile repeats its last row."""
    group = model.num_heads // model.num_kv_heads
    head_bytes = model.head_dim * 4
    qkv_bytes = (model.num_heads + 2 * model.num_kv_heads) * head_bytes
    start, context = load_scalar_i32(step.starts + 4 * sequence), load_scalar_i32(step.contexts + 4 * sequence)
    place = kv_head * model.head_dim * (BLOCK_SIZE * HALF)

    def locate(row):
        token, head = np.int64(start + row // group), kv_head * group + row % group
        query = step.qkv + token * qkv_bytes + head * head_bytes
        output = step.attention + (token * model.num_heads + head) * head_bytes
        return query, output, np.int64(context + row // group + 1)

    last = num_rows - 1
    q0, o0, l0 = locate(first_row)
    q1, o1, l1 = locate(min(first_row + 1, last))
    q2, o2, l2 = locate(min(first_row + 2, last))
    q3, o3, l3 = locate(min(first_row + 3, last))
    call(model.attend_rows, (
        q0, q1, q2, q3, l0, l1, l2, l3, o0, o1, o2, o3, model.head_dim, layer.keys + place, layer.values + place,
        step.blocks + sequence * step.blocks_stride, model.cache_block_bytes, layer.window,
        step.scratch + thread * step.scratch_stride,
    ))  # fmt: skip


@kernel
def _attend(model, layer, step, thread, num_threads):
    """Attention of all new tokens; tiles go to the threads in turn."""
    group = model.num_heads // model.num_kv_heads
    turn = 0
    for sequence in range(step.num_sequences):
        start, end = load_scalar_i32(step.starts + 4 * sequence), load_scalar_i32(step.starts + 4 * sequence + 4)
        num_rows = np.int64(end - start) * group
        for kv_head in range(model.num_kv_heads):
            for first_row in range(0, num_rows, ROW_TILE):
                if turn % num_threads == thread:
                    _attend_tile(model, layer, step, sequence, kv_head, first_row, num_rows, thread)
                turn += 1


@kernel
def _queries_keys_values(model, layer, step, thread, num_threads):
    q_width, kv_width = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    width, num_tokens, out = q_width + 2 * kv_width, step.num_tokens, step.qkv
    if layer.attn_qkv.panels != 0:
        _product(layer.attn_qkv, step, num_tokens, out, width, False, thread, num_threads)
        return
    _product(layer.attn_q, step, num_tokens, out, width, False, thread, num_threads)
    _product(layer.attn_k, step, num_tokens, out + q_width * 4, width, False, thread, num_threads)
    _product(layer.attn_v, step, num_tokens, out + (q_width + kv_width) * 4, width, False, thread, num_threads)


# ---- the layers -------------------------------------------------------------------------------


@kernel
def _gate_and_up(model, layer, step, thread, num_threads):
    hidden, num_tokens, out = model.hidden_width, step.num_tokens, step.gate_up
    if layer.ffn_gate.panels == 0:  # ffn_up holds both, the gate first
        _product(layer.ffn_up, step, num_tokens, out, 2 * hidden, False, thread, num_threads)
        return
    _product(layer.ffn_gate, step, num_tokens, out, 2 * hidden, False, thread, num_threads)
    _product(layer.ffn_up, step, num_tokens, out + hidden * 4, 2 * hidden, False, thread, num_threads)


@kernel
def _layer(model, layer, step, control, thread, num_threads):
    _normed_input(model, step, layer.attn_norm, control, thread, num_threads)
    _queries_keys_values(model, layer, step, thread, num_threads)
    _meet(model, control, num_threads)
    _prepare_attention(model, layer, step, thread, num_threads)
    _meet(model, control, num_threads)
    _attend(model, layer, step, thread, num_threads)
    _meet(model, control, num_threads)
    _attention_input(model, step, control, thread, num_threads)
    _join_residual(model, step, layer.attn_output, layer.post_attention_norm, control, thread, num_threads)
    _normed_input(model, step, layer.ffn_norm, control, thread, num_threads)
    _gate_and_up(model, layer, step, thread, num_threads)
    _meet(model, control, num_threads)
    _gated_input(model, step, control, thread, num_threads)
    _join_residual(model, step, layer.ffn_down, layer.post_ffw_norm, control, thread, num_threads)


@kernel
def _embed(model, step, thread, num_threads):
    for token in range(thread, step.num_tokens, num_threads):
        number = np.int64(load_scalar_i32(step.tokens + 4 * token))
        row = step.hidden + token * model.width * 4
        read_row(model.token_embd, model.read_row, number, row)
        if model.embedding_scale != np.float32(1):
            scale_row(row, model.width, model.embedding_scale)


@kernel
def _logits(model, step, control, thread, num_threads):
    """Final norm and output product of the rows that are asked for."""
    num_rows = step.num_logit_rows
    inputs = _input_of(step, num_rows, thread)
    first, distance = _shares(num_rows, thread, num_threads)
    for i in range(first, num_rows, distance):
        token = np.int64(load_scalar_i32(step.logit_rows + 4 * i))
        _norm_into(model, step.hidden + token * model.width * 4, model.output_norm, inputs, i, num_rows)
    _meet_if_shared(model, control, num_rows, num_threads)
    _product(model.output, step, num_rows, step.logits, step.logits_stride // 4, False, thread, num_threads)
    if model.logit_softcap > 0:
        num_panels = model.output.num_panels
        first, last = num_panels * thread // num_threads, num_panels * (thread + 1) // num_threads
        for i in range(num_rows):
            row = step.logits + i * step.logits_stride + first * (4 * LANES)
            cap_row(row, (last - first) * LANES, model.logit_softcap)


@kernel
def _share(model, layers, step, control, thread, num_threads):
    """One thread's share of a step."""
    _embed(model, step, thread, num_threads)
    _meet(model, control, num_threads)
    for index in range(model.num_layers):
        _layer(model, layers[index], step, control, thread, num_threads)
    if step.num_logit_rows > 0:
        _logits(model, step, control, thread, num_threads)
    _meet(model, control, num_threads)


@entry(types.void(_array_of(MODEL), _array_of(LAYER), _array_of(STEP), types.intp, types.intp, types.intp))
def compute(models, layers, steps, control, thread, num_threads):
    """Thread 0 computes one step with the first `num_threads` and returns; the others compute every step that they
    have a part in, until the pool closes."""
    model, step = models[0], steps[0]
    if thread == 0:
        if num_threads > 1:
            start_step(control, num_threads)
        _share(model, layers, step, control, thread, num_threads)
        return
    ticket = np.int32(0)
    while True:
        ticket = wait_for_step(control, ticket)
        if ticket < 0:
            return
        participants = num_participants(ticket)
        if thread < participants:
            _share(model, layers, step, control, thread, participants)
