"""A loaded model: its weights, cache, buffers and threads, and the one call that computes a step.

The engine's thread is the only caller. Invariant: every address in the records of layout.py points into memory that
this object keeps alive.
"""

import ctypes
import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.kernels import ops, simd
from worker.kernels.activations import FACTOR_BYTES
from worker.kernels.attention import BLOCK_SIZE, HALF, ROW_TILE
from worker.kernels.codes import BLOCK
from worker.kernels.jit import Entry, Native
from worker.kernels.matmul import PRODUCTS
from worker.kernels.pool import ThreadPool
from worker.model.architecture import Architecture, Family
from worker.model.forward import MODEL, NATIVES, compute
from worker.model.kv_types import KV_TYPES, KvType
from worker.model.layout import LAYER, MATRIX, STEP
from worker.model.rotation import rotation_table
from worker.model.weights import PackedTensor, PackedWeights


def kernels_for(architecture: Architecture, weights: PackedWeights) -> list[Native | Entry]:
    """What must be compiled before a Decoder of these weights is made."""
    formats = sorted({t.format.name for t in weights.tensors.values() if t.format is not None})
    chosen = _chosen_natives(architecture.family, weights.tensors)
    return [compute, *(PRODUCTS[name] for name in formats), *NATIVES, *chosen.values()]


def _chosen_natives(family: Family, tensors: Mapping[str, PackedTensor]) -> dict[str, Native]:
    """The kernels of forward.CHOSEN_NATIVES for a model."""
    embedding = tensors["token_embd.weight"].format
    assert embedding is not None
    gated_row, gated_quantize_row = ops.GATED[family.activation]
    return {
        "read_row": ops.ROW_READERS[embedding.name],
        "rotate": ops.rotate_pairs if family.rotates_pairs else ops.rotate_halves,
        "gated_row": gated_row,
        "gated_quantize_row": gated_quantize_row,
    }


class Decoder:
    """A loaded model. Only the engine's thread calls it."""

    def __init__(
        self,
        architecture: Architecture,
        weights: PackedWeights,
        num_threads: int,
        num_batch_threads: int = 0,
        kv_types: tuple[KvType, KvType] = (KV_TYPES["f16"], KV_TYPES["f16"]),
    ) -> None:
        """The kernels of `kernels_for` must be compiled. Steps that read prompts run on `num_batch_threads`, if given,
        all others on `num_threads`; results do not depend on it."""
        self.architecture = architecture
        self.vocab_size = architecture.vocab_size
        self.context_length = architecture.context_length
        self.instruction_set = simd.INSTRUCTION_SET
        self.num_threads = num_threads
        self._num_batch_threads = num_batch_threads or num_threads
        self._kv_types = kv_types
        self._weights = weights
        self._model = np.zeros(1, MODEL)
        self._layers = np.zeros(architecture.num_layers, LAYER)
        self._step = np.zeros(1, STEP)
        self._memory: list[mmap.mmap] = []
        self._tables: list[NDArray[np.float32]] = []
        self._describe_model()
        self._describe_layers()
        self._pool = ThreadPool(max(self.num_threads, self._num_batch_threads), self._park)

    @property
    def num_parameters(self) -> int:
        """Weights in the file, embeddings included."""
        return sum(t.num_rows * t.num_columns for t in self._weights.tensors.values())

    @property
    def thread_ids(self) -> list[int]:
        """The system's, of the threads that compute beside the caller of `forward`."""
        return self._pool.thread_ids

    @property
    def block_bytes(self) -> int:
        """Of a cache block's positions, their keys and values in all layers."""
        a = self.architecture
        num_values = a.num_kv_heads * a.head_dim * BLOCK_SIZE
        return a.num_layers * sum(kv_type.size(num_values) for kv_type in self._kv_types)

    def reserve(self, num_blocks: int, max_tokens: int, max_sequences: int) -> None:
        """Allocates the cache and the buffers of a step; called once. Memory is touched when it is first used."""
        a, step = self.architecture, self._step
        max_tokens = max(max_tokens, max_sequences)
        num_positions = num_blocks * BLOCK_SIZE
        self._build_rotations(num_positions)
        self._allocate_cache(num_blocks)
        width, kv_width = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
        widest = max(a.embedding_length, a.feed_forward_length, width)
        codes_offset = _aligned(max_tokens * widest * 4)
        factors_offset = codes_offset + _aligned(max_tokens * widest)
        inputs_stride = factors_offset + _aligned(max_tokens * (widest // BLOCK) * FACTOR_BYTES)
        scores_stride = _aligned(num_positions * 4) + 64  # rows of a power of two apart would share cache sets
        scratch_stride = 64 + _aligned(2 * 4 * ROW_TILE * a.head_dim + ROW_TILE * scores_stride)
        logits_stride = -(-a.vocab_size // simd.LANES) * simd.LANES * 4
        self._tokens = self._integers(max_tokens, "tokens")
        self._starts = self._integers(max_sequences + 1, "starts")
        self._contexts = self._integers(max_sequences, "contexts")
        self._logit_rows = self._integers(max_sequences, "logit_rows")
        self._blocks = self._integers(max_sequences * num_blocks, "blocks").reshape(max_sequences, num_blocks)
        self._logits = np.zeros((max_sequences, logits_stride // 4), np.float32)
        step["logits"] = self._logits.ctypes.data
        step["blocks_stride"], step["logits_stride"] = num_blocks * 4, logits_stride
        step["codes_offset"], step["factors_offset"] = codes_offset, factors_offset
        step["inputs_stride"], step["scratch_stride"] = inputs_stride, scratch_stride
        for name, num_bytes in {
            "hidden": max_tokens * a.embedding_length * 4,
            "projected": max_tokens * a.embedding_length * 4,
            "qkv": max_tokens * (width + 2 * kv_width) * 4,
            "attention": max_tokens * width * 4,
            "gate_up": max_tokens * a.feed_forward_length * 8,
            "inputs": self._pool.num_threads * inputs_stride,
            "scratch": self._pool.num_threads * scratch_stride,
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
        num_threads = self._num_batch_threads if tokens.size > num_sequences else self.num_threads
        compute(self._model, self._layers, self._step, self._pool.control, 0, num_threads)
        return self._logits[: logit_rows.size, : self.vocab_size]

    def close(self) -> None:
        """Ends the threads and gives the weights back."""
        self._pool.close()
        self._weights.close()

    def _park(self, control: int, thread: int) -> None:
        compute(self._model, self._layers, self._step, control, thread, 0)

    def _describe_model(self) -> None:
        a, model, tensors = self.architecture, self._model, self._weights.tensors
        _describe(model["token_embd"][0], tensors["token_embd.weight"])
        _describe(model["output"][0], tensors.get("output.weight", tensors["token_embd.weight"]))
        chosen = _chosen_natives(a.family, tensors)
        matrices = [t for t in tensors.values() if t.format is not None]
        for name, value in {
            "output_norm": tensors["output_norm.weight"].address,
            "num_layers": a.num_layers,
            "width": a.embedding_length,
            "hidden_width": a.feed_forward_length,
            "num_heads": a.num_heads,
            "num_kv_heads": a.num_kv_heads,
            "head_dim": a.head_dim,
            "num_rotated_pairs": a.rotation.dimensions // 2,
            "cache_block_bytes": a.num_kv_heads * a.head_dim * BLOCK_SIZE * HALF,
            "needs_values": any(t.format is not None and t.format.unpack is None for t in matrices),
            "epsilon": a.norm_epsilon,
            "embedding_scale": a.embedding_length**0.5 if a.family.scales_embeddings else 1.0,
            "logit_softcap": a.logit_softcap,
            **{native.name: native.address for native in NATIVES},
            **{name: native.address for name, native in chosen.items()},
        }.items():
            model[name] = value

    def _describe_layers(self) -> None:
        tensors = self._weights.tensors
        for index, layer in enumerate(self._layers):
            layer["window"] = self.architecture.window if self.architecture.is_local(index) else 0
            for field in LAYER.names or ():
                name = f"{field.removesuffix('_bias')}.bias" if field.endswith("_bias") else f"{field}.weight"
                if (tensor := tensors.get(f"blk.{index}.{name}")) is None:
                    continue
                if LAYER[field] == MATRIX:
                    _describe(layer[field], tensor)
                else:
                    layer[field] = tensor.address
            _split_fused_bias(layer, self.architecture)

    def _build_rotations(self, num_positions: int) -> None:
        a = self.architecture
        factors = self._frequency_factors()
        whole = rotation_table(a.rotation, num_positions, factors)
        local = whole if a.local_rotation == a.rotation else rotation_table(a.local_rotation, num_positions)
        self._tables = [whole, local]
        for index in range(a.num_layers):
            self._layers[index]["rotations"] = (local if a.is_local(index) else whole).ctypes.data

    def _frequency_factors(self) -> NDArray[np.float32] | None:
        """Llama 3's factors; Phi 3's, which has others for contexts beyond what it was first trained on."""
        goes_beyond = self.architecture.rotation.goes_beyond
        for name in ("rope_freqs", "rope_factors_long" if goes_beyond else "rope_factors_short"):
            if f"{name}.weight" in self._weights.tensors:
                return self._weights.vector(f"{name}.weight")
        return None

    def _allocate_cache(self, num_blocks: int) -> None:
        cache_bytes = num_blocks * int(self._model["cache_block_bytes"][0])
        cache = self._allocate(cache_bytes * 2 * self.architecture.num_layers)
        for index, layer in enumerate(self._layers):
            layer["keys"], layer["values"] = cache + 2 * index * cache_bytes, cache + (2 * index + 1) * cache_bytes

    def _tell_attention(self, scratch_stride: int, scores_stride: int) -> None:
        """Writes what attend_rows expects at the head of each thread's scratch."""
        for thread in range(self._pool.num_threads):
            head = int(self._step["scratch"][0]) + thread * scratch_stride
            ctypes.c_int64.from_address(head).value = scores_stride
            ctypes.c_float.from_address(head + 8).value = self.architecture.attention_scale
            ctypes.c_float.from_address(head + 12).value = self.architecture.attention_softcap

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


def _describe(record: Any, tensor: PackedTensor) -> None:
    assert tensor.format is not None
    record["product"] = PRODUCTS[tensor.format.name].address
    record["panels"] = tensor.address
    record["panel_bytes"] = tensor.format.matrix_bytes(simd.LANES, tensor.num_columns)
    record["num_panels"] = -(-tensor.num_rows // simd.LANES)
    record["num_columns"] = tensor.num_columns


def _split_fused_bias(layer: Any, a: Architecture) -> None:
    """A fused bias is those of q, k and v, one behind the other."""
    if layer["attn_qkv_bias"]:
        layer["attn_q_bias"] = layer["attn_qkv_bias"]
        layer["attn_k_bias"] = layer["attn_q_bias"] + a.num_heads * a.head_dim * 4
        layer["attn_v_bias"] = layer["attn_k_bias"] + a.num_kv_heads * a.head_dim * 4


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // 64) * 64
