"""The transformer, read from the bottom up: one native call computes a step of many sequences, layer after layer.

All threads run `_share` of the same step and meet at barriers; Python sees neither layers nor tokens. Invariant: a
token's result depends on its sequence alone, never on what else the step holds, on how its prompt was cut into steps,
or on the number of threads.
"""

from typing import Any

import numba
import numpy as np
from numba import types

from worker.kernels.activations import FACTOR_BYTES, quantize_row
from worker.kernels.attention import finish_row
from worker.kernels.cache_pages import keep_finite
from worker.kernels.codes import BLOCK
from worker.kernels.jit import call, entry, kernel
from worker.kernels.matmul import matmul
from worker.kernels.memory import load_scalar_i32
from worker.kernels.ops import (
    add_normed_row,
    cap_row,
    copy_row,
    norm_quantize_row,
    norm_row,
    read_row,
    scale_row,
)
from worker.kernels.pool import barrier, num_participants, start_step, wait_for_step
from worker.kernels.simd import LANES
from worker.model import experts
from worker.model.attention import attend, cut_into_tiles, finish_attention, prepare_attention
from worker.model.experts import expert_products, row_at
from worker.model.layout import LAYER, STEP, TILE, model_record

# Steps of so few tokens prepare a product's input in every thread for itself, which is cheaper than meeting.
FEW_TOKENS = 4

# Native code that every model needs, and what depends on the family, the formats and the cache, filled in by
# decoder.py. Those with experts need experts.NATIVES as well.
NATIVES = (norm_row, norm_quantize_row, add_normed_row, quantize_row, keep_finite, finish_row, barrier)
CHOSEN_NATIVES = (
    "read_row", "rotate", "gated_row", "gated_quantize_row",
    "attend_wide", "attend_narrow", "write_key", "write_value", "clear_values",
)  # fmt: skip

MODEL = model_record([*(native.name for native in (*NATIVES, *experts.NATIVES)), *CHOSEN_NATIVES])


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
def _norm_into(model, row, weight, inputs, token, num_tokens, needs_values):
    """A token's norm, in the forms that the products want."""
    values, codes, factors = inputs
    call(model.norm_quantize_row, (row, weight, model.width, model.epsilon, codes, factors, token, num_tokens))
    if needs_values:
        call(model.norm_row, (row, weight, values + token * model.width * 4, model.width, model.epsilon))


@kernel
def _normed_input(model, step, weight, needs_values, control, thread, num_threads):
    """Norm of the residual stream, as input of products."""
    num_tokens = step.num_tokens
    inputs = _input_of(step, num_tokens, thread)
    first, distance = _shares(num_tokens, thread, num_threads)
    for token in range(first, num_tokens, distance):
        _norm_into(model, step.hidden + token * model.width * 4, weight, inputs, token, num_tokens, needs_values)
    _meet_if_shared(model, control, num_tokens, num_threads)


@kernel
def _attention_input(model, layer, step, tiles, control, thread, num_threads):
    """The attention's result, as input of attn_output."""
    num_tokens, width = step.num_tokens, model.num_heads * model.head_dim
    values, codes, factors = _input_of(step, num_tokens, thread)
    first, distance = _shares(num_tokens, thread, num_threads)
    finish_attention(model, layer, step, tiles, first, distance, thread)
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


# ---- feed-forward -----------------------------------------------------------------------------


@kernel
def _gate_and_up(model, layer, step, thread, num_threads):
    hidden, num_tokens, out = model.hidden_width, step.num_tokens, step.gate_up
    if layer.ffn_gate.panels == 0:  # ffn_up holds both, the gate first
        _product(layer.ffn_up, step, num_tokens, out, 2 * hidden, False, thread, num_threads)
        return
    _product(layer.ffn_gate, step, num_tokens, out, 2 * hidden, False, thread, num_threads)
    _product(layer.ffn_up, step, num_tokens, out + hidden * 4, 2 * hidden, False, thread, num_threads)


@kernel
def _feed_forward(model, layer, step, control, thread, num_threads):
    _normed_input(model, step, layer.ffn_norm, model.needs_values, control, thread, num_threads)
    _gate_and_up(model, layer, step, thread, num_threads)
    _meet(model, control, num_threads)
    _gated_input(model, step, control, thread, num_threads)
    _join_residual(model, step, layer.ffn_down, layer.post_ffw_norm, control, thread, num_threads)


# ---- experts ----------------------------------------------------------------------------------


@kernel
def _part_of(inputs, first_row, width):
    """The inputs of rows of `width` values from first_row on, where a tile begins."""
    values, codes, factors = inputs
    first = first_row * width
    return values + 4 * first, codes + first, factors + first // BLOCK * FACTOR_BYTES


@kernel
def _expert_inputs(model, layer, step, routes, control, thread, num_threads):
    """The norm of each token once for each of its experts, beside the other tokens of that expert."""
    num_rows = step.num_tokens * model.num_used_experts
    inputs = _input_of(step, num_rows, thread)
    first, distance = _shares(num_rows, thread, num_threads)
    for pair in range(first, num_rows, distance):
        row, first_row, count = row_at(routes, step.max_rows, pair)
        hidden = step.hidden + pair // model.num_used_experts * model.width * 4
        _norm_into(model, hidden, layer.ffn_norm, _part_of(inputs, first_row, model.width), row - first_row, count,
                   model.needs_values)
    _meet_if_shared(model, control, num_rows, num_threads)


@kernel
def _gated_expert_inputs(model, step, routes, control, thread, num_threads):
    """activation(gate) * up of each row, as input of ffn_down_exps."""
    num_rows, width = step.num_tokens * model.num_used_experts, model.hidden_width
    inputs = _input_of(step, num_rows, thread)
    first, distance = _shares(num_rows, thread, num_threads)
    for pair in range(first, num_rows, distance):
        row, first_row, count = row_at(routes, step.max_rows, pair)
        values, codes, factors = _part_of(inputs, first_row, width)
        gate, token = step.gate_up + row * width * 8, row - first_row
        call(model.gated_quantize_row, (gate, gate + width * 4, width, codes, factors, token, count))
        if model.needs_values:
            call(model.gated_row, (gate, gate + width * 4, values + token * width * 4, width))
    _meet_if_shared(model, control, num_rows, num_threads)


@kernel
def _join_experts(model, layer, step, routes, thread, num_threads):
    """Adds the weighted outputs of each token's experts to the residual stream: this thread's columns of them."""
    num_rows, width, max_rows = step.num_tokens * model.num_used_experts, model.width, step.max_rows
    expert_products(layer.ffn_down_exps, _input_of(step, num_rows, thread), False, step.expert_outputs, width,
                    routes, max_rows, model.num_experts, thread, num_threads)
    num_panels = layer.ffn_down_exps.num_panels
    first, last = num_panels * thread // num_threads * LANES, num_panels * (thread + 1) // num_threads * LANES
    call(model.add_experts, (step.expert_outputs, routes, max_rows, step.num_tokens, model.num_used_experts,
                             step.hidden, width, first, last))


@kernel
def _experts(model, layer, step, control, thread, num_threads):
    """Feed-forward through the experts that each token's scores choose; every thread works out for itself which."""
    num_tokens, hidden = step.num_tokens, model.hidden_width
    routes, max_rows = step.routes + thread * step.routes_stride, step.max_rows
    _normed_input(model, step, layer.ffn_norm, np.int64(1), control, thread, num_threads)
    _product(layer.ffn_gate_inp, step, num_tokens, step.scores, model.scores_width, False, thread, num_threads)
    _meet(model, control, num_threads)
    call(model.route, (step.scores, model.scores_width * 4, num_tokens, model.num_experts, model.num_used_experts,
                       routes, max_rows, model.experts_scale))
    alone = num_tokens == 1  # then its input serves all of its experts
    if not alone:
        _expert_inputs(model, layer, step, routes, control, thread, num_threads)
    inputs = _input_of(step, num_tokens if alone else num_tokens * model.num_used_experts, thread)
    expert_products(layer.ffn_gate_exps, inputs, alone, step.gate_up, 2 * hidden,
                    routes, max_rows, model.num_experts, thread, num_threads)
    expert_products(layer.ffn_up_exps, inputs, alone, step.gate_up + hidden * 4, 2 * hidden,
                    routes, max_rows, model.num_experts, thread, num_threads)
    _meet(model, control, num_threads)
    _gated_expert_inputs(model, step, routes, control, thread, num_threads)
    _join_experts(model, layer, step, routes, thread, num_threads)
    _meet(model, control, num_threads)


# ---- the layers -------------------------------------------------------------------------------


@kernel
def _layer(model, layer, step, tiles, control, thread, num_threads):
    _normed_input(model, step, layer.attn_norm, model.needs_values, control, thread, num_threads)
    _queries_keys_values(model, layer, step, thread, num_threads)
    _meet(model, control, num_threads)
    prepare_attention(model, layer, step, thread, num_threads)
    _meet(model, control, num_threads)
    attend(model, layer, step, tiles, thread, num_threads)
    _meet(model, control, num_threads)
    _attention_input(model, layer, step, tiles, control, thread, num_threads)
    _join_residual(model, step, layer.attn_output, layer.post_attention_norm, control, thread, num_threads)
    if model.num_experts > 0:
        _experts(model, layer, step, control, thread, num_threads)
    else:
        _feed_forward(model, layer, step, control, thread, num_threads)


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
        row = step.hidden + token * model.width * 4
        _norm_into(model, row, model.output_norm, inputs, i, num_rows, model.needs_values)
    _meet_if_shared(model, control, num_rows, num_threads)
    _product(model.output, step, num_rows, step.logits, step.logits_stride // 4, False, thread, num_threads)
    if model.logit_softcap > 0:
        num_panels = model.output.num_panels
        first, last = num_panels * thread // num_threads, num_panels * (thread + 1) // num_threads
        for i in range(num_rows):
            row = step.logits + i * step.logits_stride + first * (4 * LANES)
            cap_row(row, (last - first) * LANES, model.logit_softcap)


@kernel
def _share(model, layers, step, tiles, control, thread, num_threads):
    """One thread's share of a step."""
    if thread == 0:
        cut_into_tiles(model, step, tiles)
    _embed(model, step, thread, num_threads)
    _meet(model, control, num_threads)
    for index in range(model.num_layers):
        _layer(model, layers[index], step, tiles, control, thread, num_threads)
    if step.num_logit_rows > 0:
        _logits(model, step, control, thread, num_threads)
    _meet(model, control, num_threads)


@entry(types.void(
    _array_of(MODEL), _array_of(LAYER), _array_of(STEP), _array_of(TILE), types.intp, types.intp, types.intp
))  # fmt: skip
def compute(models, layers, steps, tiles, control, thread, num_threads):
    """Thread 0 computes one step with the first `num_threads` and returns; the others compute every step that they
    have a part in, until the pool closes."""
    model, step = models[0], steps[0]
    if thread == 0:
        if num_threads > 1:
            start_step(control, num_threads)
        _share(model, layers, step, tiles, control, thread, num_threads)
        return
    ticket = np.int32(0)
    while True:
        ticket = wait_for_step(control, ticket)
        if ticket < 0:
            return
        participants = num_participants(ticket)
        if thread < participants:
            _share(model, layers, step, tiles, control, thread, participants)
