"""The transformer, read top to bottom: one native call computes a step of many sequences, layer after layer.

The engine calls `Decoder.forward`. Inside, all threads run `_share` of the same step and meet at barriers; Python sees
neither layers nor tokens. Invariant: a token's result depends on its sequence alone, never on what else the step holds,
on how its prompt was cut into steps, or on the number of threads.
"""

import ctypes
import mmap
from collections.abc import Mapping
from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from worker.kernels import simd
from worker.kernels.activations import FACTOR_BYTES, quantize_row
from worker.kernels.attention import BLOCK_SIZE, HALF, ROW_TILE, attend_rows, block_address, write_key_value
from worker.kernels.jit import Entry, Native, call, entry, kernel
from worker.kernels.matmul import PRODUCTS, matmul
from worker.kernels.ops import ROW_READERS, copy_row, gated_quantize_row, gated_row, norm_quantize_row, norm_row, read_row, rotate_pairs
from worker.kernels.panels import BLOCK
from worker.kernels.pool import ThreadPool, barrier, start_step, wait_for_step
from worker.kernels.simd import load_scalar_i32
from worker.model.architecture import Architecture
from worker.model.weights import PackedTensor, PackedWeights

# Steps of so few tokens prepare a product's input in every thread for itself, which is cheaper than meeting.
FEW_TOKENS = 4

# Native code that every model needs.
NATIVES = (norm_row, norm_quantize_row, quantize_row, gated_row, gated_quantize_row, rotate_pairs, write_key_value,
           attend_rows, barrier)

# What native code reads. Fields named `..._at` and those of int64 without a comment are addresses in bytes.
MATRIX = np.dtype([(name, np.int64) for name in ("product", "panels", "panel_bytes", "num_panels", "num_columns")])
LAYER = np.dtype([
    ("attn_norm", np.int64), ("attn_q", MATRIX), ("attn_k", MATRIX), ("attn_v", MATRIX), ("attn_output", MATRIX),
    ("ffn_norm", np.int64), ("ffn_gate", MATRIX), ("ffn_up", MATRIX), ("ffn_down", MATRIX),
    ("keys", np.int64), ("values", np.int64),
])  # fmt: skip
MODEL = np.dtype([
    ("token_embd", MATRIX), ("output", MATRIX), ("output_norm", np.int64),
    ("rotations", np.int64),  # f32 [position][rope_dimensions / 2][cosine, sine]
    ("num_layers", np.int64), ("width", np.int64), ("hidden_width", np.int64),
    ("num_heads", np.int64), ("num_kv_heads", np.int64), ("head_dim", np.int64), ("num_rotated_pairs", np.int64),
    ("cache_block_bytes", np.int64),  # one block, one layer, all KV heads: of keys, and again of values
    ("needs_values", np.int64),  # 1 if any matrix is of floats
    ("epsilon", np.float32), ("_", np.float32),
    ("read_row", np.int64), *((kernel.name, np.int64) for kernel in NATIVES),  # native code
])  # fmt: skip
STEP = np.dtype([
    ("num_tokens", np.int64), ("num_sequences", np.int64), ("num_logit_rows", np.int64),
    ("tokens", np.int64), ("starts", np.int64), ("contexts", np.int64), ("logit_rows", np.int64),  # i32 each
    ("blocks", np.int64), ("blocks_stride", np.int64),  # i32 block numbers by sequence; bytes from one to the next
    ("hidden", np.int64),  # f32 [token][width], the residual stream
    ("qkv", np.int64),  # f32 [token][q heads | k heads | v heads][head_dim]
    ("attention", np.int64),  # f32 [token][heads][head_dim]
    ("gate_up", np.int64),  # f32 [token][gate | up]
    ("inputs", np.int64), ("inputs_stride", np.int64),  # of each thread: f32 values, codes, factors of a product's input
    ("codes_offset", np.int64), ("factors_offset", np.int64),
    ("scratch", np.int64), ("scratch_stride", np.int64),  # of each thread, for attention
    ("logits", np.int64), ("logits_stride", np.int64),
])  # fmt: skip


def _array_of(dtype: np.dtype[Any]) -> Any:
    return types.Array(numba.from_dtype(dtype), 1, "C")


# ---- a product's input ------------------------------------------------------------------------


@kernel
def meet(model, control, num_threads):
    """Returns when all threads of the step have come here."""
    if num_threads > 1:
        call(model.barrier, (control, num_threads))


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
        meet(model, control, num_threads)


@kernel
def _normed_input(model, step, weight, control, thread, num_threads):
    """Norm of the residual stream, as input of products."""
    num_tokens = step.num_tokens
    values, codes, factors = _input_of(step, num_tokens, thread)
    first, distance = _shares(num_tokens, thread, num_threads)
    for token in range(first, num_tokens, distance):
        row = step.hidden + token * model.width * 4
        call(model.norm_quantize_row, (row, weight, model.width, model.epsilon, codes, factors, token, num_tokens))
        if model.needs_values:
            call(model.norm_row, (row, weight, values + token * model.width * 4, model.width, model.epsilon))
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
    """silu(gate) * up, as input of ffn_down."""
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


# ---- attention --------------------------------------------------------------------------------


@kernel
def _rotate_and_cache(model, layer, step, thread, num_threads):
    """Rotates queries and keys of the new tokens and writes keys and values to the cache."""
    head_bytes = model.head_dim * 4
    qkv_bytes = (model.num_heads + 2 * model.num_kv_heads) * head_bytes
    cache_head = model.head_dim * BLOCK_SIZE * HALF
    for sequence in range(step.num_sequences):
        start, end = load_scalar_i32(step.starts + 4 * sequence), load_scalar_i32(step.starts + 4 * sequence + 4)
        context = load_scalar_i32(step.contexts + 4 * sequence)
        table = step.blocks + sequence * step.blocks_stride
        for token in range(start, end):
            position = context + token - start
            rotation = model.rotations + position * model.num_rotated_pairs * 8
            row = step.qkv + token * qkv_bytes
            offset = block_address(table, position, model.cache_block_bytes)
            for head in range(model.num_heads + model.num_kv_heads):
                if (token + head) % num_threads != thread:
                    continue
                call(model.rotate_pairs, (row + head * head_bytes, model.num_rotated_pairs, rotation))
                if head >= model.num_heads:
                    kv_head = head - model.num_heads
                    place = offset + kv_head * cache_head
                    key = row + head * head_bytes
                    call(model.write_key_value, (
                        key, key + model.num_kv_heads * head_bytes, layer.keys + place, layer.values + place,
                        np.int64(position), model.head_dim,
                    ))  # fmt: skip


@kernel
def _attend_tile(model, layer, step, sequence, kv_head, first_row, num_rows, thread):
    """Rows first_row .. of (token, query head of kv_head) pairs of one sequence; the last tile repeats its last row."""
    group = model.num_heads // model.num_kv_heads
    head_bytes = model.head_dim * 4
    qkv_bytes = (model.num_heads + 2 * model.num_kv_heads) * head_bytes
    start, context = load_scalar_i32(step.starts + 4 * sequence), load_scalar_i32(step.contexts + 4 * sequence)
    place = kv_head * model.head_dim * BLOCK_SIZE * HALF

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
        step.blocks + sequence * step.blocks_stride, model.cache_block_bytes, step.scratch + thread * step.scratch_stride,
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


# ---- the layers -------------------------------------------------------------------------------


@kernel
def _layer(model, layer, step, control, thread, num_threads):
    num_tokens, width, hidden = step.num_tokens, model.width, model.hidden_width
    q_width, kv_width = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    qkv_width = q_width + 2 * kv_width

    _normed_input(model, step, layer.attn_norm, control, thread, num_threads)
    _product(layer.attn_q, step, num_tokens, step.qkv, qkv_width, False, thread, num_threads)
    _product(layer.attn_k, step, num_tokens, step.qkv + q_width * 4, qkv_width, False, thread, num_threads)
    _product(layer.attn_v, step, num_tokens, step.qkv + (q_width + kv_width) * 4, qkv_width, False, thread, num_threads)
    meet(model, control, num_threads)
    _rotate_and_cache(model, layer, step, thread, num_threads)
    meet(model, control, num_threads)
    _attend(model, layer, step, thread, num_threads)
    meet(model, control, num_threads)
    _attention_input(model, step, control, thread, num_threads)
    _product(layer.attn_output, step, num_tokens, step.hidden, width, True, thread, num_threads)
    meet(model, control, num_threads)
    _normed_input(model, step, layer.ffn_norm, control, thread, num_threads)
    _product(layer.ffn_gate, step, num_tokens, step.gate_up, 2 * hidden, False, thread, num_threads)
    _product(layer.ffn_up, step, num_tokens, step.gate_up + hidden * 4, 2 * hidden, False, thread, num_threads)
    meet(model, control, num_threads)
    _gated_input(model, step, control, thread, num_threads)
    _product(layer.ffn_down, step, num_tokens, step.hidden, width, True, thread, num_threads)
    meet(model, control, num_threads)


@kernel
def _logits(model, step, control, thread, num_threads):
    """Final norm and output product of the rows that are asked for."""
    num_rows = step.num_logit_rows
    values, codes, factors = _input_of(step, num_rows, thread)
    first, distance = _shares(num_rows, thread, num_threads)
    for i in range(first, num_rows, distance):
        row = step.hidden + np.int64(load_scalar_i32(step.logit_rows + 4 * i)) * model.width * 4
        call(model.norm_quantize_row,
             (row, model.output_norm, model.width, model.epsilon, codes, factors, i, num_rows))
        if model.needs_values:
            call(model.norm_row, (row, model.output_norm, values + i * model.width * 4, model.width, model.epsilon))
    _meet_if_shared(model, control, num_rows, num_threads)
    _product(model.output, step, num_rows, step.logits, step.logits_stride // 4, False, thread, num_threads)


@kernel
def _share(model, layers, step, control, thread, num_threads):
    """One thread's share of a step."""
    for token in range(thread, step.num_tokens, num_threads):
        number = np.int64(load_scalar_i32(step.tokens + 4 * token))
        read_row(model.token_embd, model.read_row, number, step.hidden + token * model.width * 4)
    meet(model, control, num_threads)
    for index in range(model.num_layers):
        _layer(model, layers[index], step, control, thread, num_threads)
    if step.num_logit_rows > 0:
        _logits(model, step, control, thread, num_threads)
    meet(model, control, num_threads)


@entry(types.void(_array_of(MODEL), _array_of(LAYER), _array_of(STEP), types.intp, types.intp, types.intp))
def compute(models, layers, steps, control, thread, num_threads):
    """Thread 0 computes one step and returns; the others compute every step until the pool closes."""
    model, step = models[0], steps[0]
    if thread == 0:
        if num_threads > 1:
            start_step(control)
        _share(model, layers, step, control, thread, num_threads)
        return
    ticket = np.int32(0)
    while True:
        ticket = wait_for_step(control, ticket)
        if ticket < 0:
            return
        _share(model, layers, step, control, thread, num_threads)


def kernels_for(weights: PackedWeights) -> list[Native | Entry]:
    """What must be compiled before a Decoder of these weights is made."""
    formats = sorted({t.format.name for t in weights.tensors.values() if t.format is not None})
    return [*(PRODUCTS[name] for name in formats), _row_reader(weights.tensors), *NATIVES, compute]


def _row_reader(tensors: Mapping[str, PackedTensor]) -> Native:
    form = tensors["token_embd.weight"].format
    assert form is not None
    return ROW_READERS[form.name]


# ---- the object the engine holds --------------------------------------------------------------


class Decoder:
    """A loaded model, its cache and its threads. Only the engine's thread calls it."""

    def __init__(self, architecture: Architecture, weights: PackedWeights, num_threads: int) -> None:
        self.architecture = architecture
        self.vocab_size = architecture.vocab_size
        self.context_length = architecture.context_length
        self.instruction_set = simd.INSTRUCTION_SET
        self.num_threads = num_threads
        self._weights = weights
        self._model = np.zeros(1, MODEL)
        self._layers = np.zeros(architecture.num_layers, LAYER)
        self._step = np.zeros(1, STEP)
        self._memory: list[mmap.mmap] = []
        self._rotations = rotation_table(architecture, weights)
        self._describe_model()
        self._pool = ThreadPool(num_threads, self._park)

    @property
    def num_parameters(self) -> int:
        """Weights in the file, embeddings included."""
        return sum(t.num_rows * t.num_columns for t in self._weights.tensors.values())

    def reserve(self, num_blocks: int, max_tokens: int, max_sequences: int) -> None:
        """Allocates the cache and the buffers of a step; called once. Memory is touched when it is first used."""
        a, step, layers = self.architecture, self._step, self._layers
        threads, width = self.num_threads, a.num_heads * a.head_dim
        max_tokens = max(max_tokens, max_sequences)
        widest = max(a.embedding_length, a.feed_forward_length, width)
        num_positions = num_blocks * BLOCK_SIZE
        cache_bytes = num_blocks * int(self._model["cache_block_bytes"][0])
        cache = self._allocate(cache_bytes * 2 * a.num_layers)
        for index in range(a.num_layers):
            layers[index]["keys"] = cache + 2 * index * cache_bytes
            layers[index]["values"] = cache + (2 * index + 1) * cache_bytes
        codes_offset = _aligned(max_tokens * widest * 4)
        factors_offset = codes_offset + _aligned(max_tokens * widest)
        inputs_stride = factors_offset + _aligned(max_tokens * (widest // BLOCK) * FACTOR_BYTES)
        scores_stride = _aligned(num_positions * 4) + 64  # rows of a power of two apart would share cache sets
        scratch_stride = 64 + _aligned(2 * 4 * ROW_TILE * a.head_dim + ROW_TILE * scores_stride)
        logits_stride = -(-a.vocab_size // 16) * 64
        self._tokens = self._integers(max_tokens, "tokens")
        self._starts = self._integers(max_sequences + 1, "starts")
        self._contexts = self._integers(max_sequences, "contexts")
        self._logit_rows = self._integers(max_sequences, "logit_rows")
        self._blocks = self._integers(max_sequences * num_blocks, "blocks").reshape(max_sequences, num_blocks)
        self._logits = self._floats(max_sequences * logits_stride // 4, "logits").reshape(max_sequences, -1)
        step["blocks_stride"], step["logits_stride"] = num_blocks * 4, logits_stride
        step["inputs_stride"], step["codes_offset"], step["factors_offset"] = inputs_stride, codes_offset, factors_offset
        step["scratch_stride"] = scratch_stride
        for name, num_bytes in {
            "hidden": max_tokens * a.embedding_length * 4,
            "qkv": max_tokens * (width + 2 * a.num_kv_heads * a.head_dim) * 4,
            "attention": max_tokens * width * 4,
            "gate_up": max_tokens * a.feed_forward_length * 8,
            "inputs": threads * inputs_stride,
            "scratch": threads * scratch_stride,
        }.items():
            step[name] = self._allocate(num_bytes)
        self._tell_attention(scratch_stride, scores_stride)

    def forward(
        self,
        tokens: NDArray[np.int32],
        starts: NDArray[np.int32],
        contexts: NDArray[np.int32],
        blocks: NDArray[np.int32],
        logit_rows: NDArray[np.int32],
    ) -> NDArray[np.float32]:
        """Computes one step: logits (R, vocab) of the rows asked for, valid until the next call.

        tokens: (T,); sequence s has rows starts[s] to starts[s + 1] at positions from contexts[s] on; blocks: (S, B)
        cache blocks of each sequence in order of position; logit_rows: (R,) rows of `tokens`.
        """
        num_sequences, num_blocks = blocks.shape
        self._tokens[: tokens.size] = tokens
        self._starts[: starts.size] = starts
        self._contexts[: contexts.size] = contexts
        self._blocks[:num_sequences, :num_blocks] = blocks
        self._logit_rows[: logit_rows.size] = logit_rows
        step = self._step[0]
        step["num_tokens"], step["num_sequences"] = tokens.size, num_sequences
        step["num_logit_rows"] = logit_rows.size
        compute(self._model, self._layers, self._step, self._pool.control, 0, self.num_threads)
        return self._logits[: logit_rows.size, : self.vocab_size]

    def close(self) -> None:
        """Ends the threads and gives the memory back."""
        self._pool.close()
        self._weights.close()

    def _park(self, control: int, thread: int) -> None:
        compute(self._model, self._layers, self._step, control, thread, self.num_threads)

    def _describe_model(self) -> None:
        a, model, tensors = self.architecture, self._model, self._weights.tensors
        _describe(model["token_embd"][0], tensors["token_embd.weight"])
        _describe(model["output"][0], tensors.get("output.weight", tensors["token_embd.weight"]))
        model["output_norm"] = tensors["output_norm.weight"].address
        model["rotations"] = self._rotations.ctypes.data
        model["num_layers"], model["width"], model["hidden_width"] = a.num_layers, a.embedding_length, a.feed_forward_length
        model["num_heads"], model["num_kv_heads"], model["head_dim"] = a.num_heads, a.num_kv_heads, a.head_dim
        model["read_row"] = _row_reader(tensors).address
        for kernel_ in NATIVES:
            model[kernel_.name] = kernel_.address
        model["num_rotated_pairs"] = a.rope_dimensions // 2
        model["cache_block_bytes"] = a.num_kv_heads * a.head_dim * BLOCK_SIZE * HALF
        model["needs_values"] = any(t.format is not None and t.format.unpack is None for t in tensors.values())
        model["epsilon"] = a.norm_epsilon
        for index in range(a.num_layers):
            for name in LAYER.names or ():
                if (tensor := tensors.get(f"blk.{index}.{name}.weight")) is None:
                    continue
                if LAYER[name] == MATRIX:
                    _describe(self._layers[index][name], tensor)
                else:
                    self._layers[index][name] = tensor.address

    def _tell_attention(self, scratch_stride: int, scores_stride: int) -> None:
        """Writes what attend_rows expects at the head of each thread's scratch."""
        for thread in range(self.num_threads):
            head = int(self._step["scratch"][0]) + thread * scratch_stride
            ctypes.c_int64.from_address(head).value = scores_stride
            ctypes.c_float.from_address(head + 8).value = self.architecture.head_dim**-0.5

    def _allocate(self, num_bytes: int) -> int:
        """Zeroed memory in huge pages where there are any; its address."""
        memory = mmap.mmap(-1, max(num_bytes, mmap.PAGESIZE))
        memory.madvise(mmap.MADV_HUGEPAGE)
        self._memory.append(memory)
        return int(np.frombuffer(memory, np.uint8).ctypes.data)

    def _integers(self, count: int, name: str) -> NDArray[np.int32]:
        array = np.zeros(count, np.int32)
        self._step[name] = array.ctypes.data
        return array

    def _floats(self, count: int, name: str) -> NDArray[np.float32]:
        array = np.zeros(count, np.float32)
        self._step[name] = array.ctypes.data
        return array


def rotation_table(architecture: Architecture, weights: PackedWeights) -> NDArray[np.float32]:
    """Cosines and sines of the rotary embedding: (positions, pairs, 2).

    Pair i turns by position / base^(2i / dimensions); the file may divide frequencies further (rope_freqs.weight).
    """
    pairs = np.arange(architecture.rope_dimensions // 2, dtype=np.float64)
    frequencies = architecture.rope_base ** (-2 * pairs / architecture.rope_dimensions) / architecture.rope_scale
    if "rope_freqs.weight" in weights.tensors:
        frequencies /= weights.vector("rope_freqs.weight")
    angles = np.arange(architecture.context_length)[:, None] * frequencies
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


def _describe(record: Any, tensor: PackedTensor) -> None:
    assert tensor.format is not None
    num_panels = -(-tensor.num_rows // simd.LANES)
    panel_bytes = tensor.format.matrix_bytes(simd.LANES, tensor.num_columns)
    for name, value in zip(
        MATRIX.names or (), (PRODUCTS[tensor.format.name].address, tensor.address, panel_bytes, num_panels, tensor.num_columns), strict=True
    ):
        record[name] = value


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // 64) * 64
