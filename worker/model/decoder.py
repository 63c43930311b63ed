"""A loaded model: its weights, cache, buffers and threads, and the one call that computes a step.

The engine's thread is the only caller. Invariant: every address in the records of layout.py points into memory that
this object keeps alive.
"""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.kernels import ops
from worker.kernels.activations import FACTOR_BYTES
from worker.kernels.attention import ATTEND, CHUNK, WIDE, narrow_rows, scratch_bytes, state_bytes
from worker.kernels.cache_pages import KEY_WRITERS, VALUE_CLEARERS, VALUE_WRITERS
from worker.kernels.cache_types import CACHE_TYPES, PAGE
from worker.kernels.codes import BLOCK
from worker.kernels.instruction_sets import INSTRUCTION_SET
from worker.kernels.jit import Entry, Native
from worker.kernels.matmul import PRODUCTS
from worker.kernels.pool import ThreadPool
from worker.kernels.simd import LANES
from worker.model import experts
from worker.model.architecture import Architecture, Experts
from worker.model.attention import BUNDLE
from worker.model.forward import MODEL, NATIVES, compute
from worker.model.layout import LAYER, MATRIX, STEP, TILE
from worker.model.rotation import rotation_table
from worker.model.weights import PackedTensor, PackedWeights

BLOCK_SIZE = PAGE  # positions of a cache block: what kernels call a page


@dataclass(frozen=True)
class CacheTypes:
    """Types of keys and values in the cache, of cache_types.CACHE_TYPES."""

    keys: str = "f16"
    values: str = "f16"


def kernels_for(architecture: Architecture, weights: PackedWeights, cache: CacheTypes) -> list[Native | Entry]:
    """What must be compiled before a Decoder of these weights is made."""
    formats = sorted({t.format.name for t in weights.tensors.values() if t.format is not None})
    chosen = _chosen_natives(architecture, weights.tensors, cache)
    routing = experts.NATIVES if architecture.experts else ()
    return [compute, *(PRODUCTS[name] for name in formats), *NATIVES, *routing, *chosen.values()]


def _chosen_natives(
    architecture: Architecture, tensors: Mapping[str, PackedTensor], cache: CacheTypes
) -> dict[str, Native]:
    """The kernels of forward.CHOSEN_NATIVES for a model."""
    embedding = tensors["token_embd.weight"].format
    assert embedding is not None
    family = architecture.family
    gated_row, gated_quantize_row = ops.GATED[family.activation]
    narrow = narrow_rows(architecture.num_heads // architecture.num_kv_heads)
    return {
        "read_row": ops.ROW_READERS[embedding.name],
        "rotate": ops.rotate_pairs if family.rotates_pairs else ops.rotate_halves,
        "gated_row": gated_row,
        "gated_quantize_row": gated_quantize_row,
        "attend_wide": ATTEND[cache.keys, cache.values, WIDE],
        "attend_narrow": ATTEND[cache.keys, cache.values, narrow],
        "write_key": KEY_WRITERS[cache.keys],
        "write_value": VALUE_WRITERS[cache.values],
        "clear_values": VALUE_CLEARERS[cache.values],
    }


class Decoder:
    """A loaded model. Only the engine's thread calls it."""

    def __init__(
        self,
        architecture: Architecture,
        weights: PackedWeights,
        num_threads: int,
        num_batch_threads: int = 0,
        cache: CacheTypes = CacheTypes(),
    ) -> None:
        """The kernels of `kernels_for` must be compiled.

        Steps that read prompts run on `num_batch_threads`, if given, all others on `num_threads`; results do not depend
        on it.
        """
        self.architecture = architecture
        self.vocab_size = architecture.vocab_size
        self.context_length = architecture.context_length
        self.instruction_set = INSTRUCTION_SET.name
        self.num_threads = num_threads
        self._num_batch_threads = num_batch_threads or num_threads
        self._weights, self._cache_types = weights, cache
        self._model = np.zeros(1, MODEL)
        self._layers = np.zeros(architecture.num_layers, LAYER)
        self._step = np.zeros(1, STEP)
        self._tiles = np.zeros(0, TILE)
        self._memory: list[mmap.mmap] = []
        self._tables: list[NDArray[np.float32]] = []
        self._describe_model()
        self._describe_layers()
        self._pool: ThreadPool | None = None  # from `reserve` on: its threads read what that allocates

    @property
    def num_parameters(self) -> int:
        """Weights in the file, embeddings included."""
        return sum(t.num_matrices * t.num_rows * t.num_columns for t in self._weights.tensors.values())

    @property
    def content(self) -> bytes:
        """The SHA-256 of all tensors of the file."""
        return self._weights.content

    @property
    def rotation_tables(self) -> list[NDArray[np.float32]]:
        """Of layers that see everything and of the others, by position; from `reserve` on."""
        return self._tables

    @property
    def thread_ids(self) -> list[int]:
        """The system's, of the threads that compute beside the caller of `forward`."""
        return self._pool.thread_ids if self._pool else []

    @property
    def block_bytes(self) -> int:
        """Of a cache block's positions, their keys and values in all layers."""
        page_bytes = int(self._model["key_page_bytes"][0] + self._model["value_page_bytes"][0])
        return page_bytes * self.architecture.num_layers

    def reserve(self, num_blocks: int, max_tokens: int, max_sequences: int, max_logit_rows: int = 0) -> None:
        """Allocates the cache and the buffers of a step and starts the threads; called once, before `forward`.

        max_logit_rows: where it is more than one for each sequence. Memory is touched when it is first used.
        """
        a, step = self.architecture, self._step
        num_threads = max(self.num_threads, self._num_batch_threads)
        max_tokens = max(max_tokens, max_sequences)
        max_rows = max_tokens * (a.experts.num_used if a.experts else 1)
        num_positions = num_blocks * BLOCK_SIZE
        self._build_rotations(num_positions)
        self._allocate_cache(num_blocks)
        width, kv_width = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
        widest = max(a.embedding_length, a.feed_forward_length, width)
        codes_offset = _aligned(max_rows * widest * 4)
        factors_offset = codes_offset + _aligned(max_rows * widest)
        inputs_stride = factors_offset + _aligned(max_rows * (widest // BLOCK) * FACTOR_BYTES)
        states_offset = _aligned(scratch_bytes(a.head_dim))
        scratch_stride = states_offset + BUNDLE * WIDE * state_bytes(a.head_dim)
        max_parts = max_sequences * a.num_kv_heads * WIDE * -(-num_positions // CHUNK)
        self._tiles = np.zeros(max_tokens * (a.num_heads // a.num_kv_heads), TILE)
        logits_stride = -(-a.vocab_size // LANES) * LANES * 4
        self._tokens = self._integers(max_tokens, "tokens")
        self._starts = self._integers(max_sequences + 1, "starts")
        self._contexts = self._integers(max_sequences, "contexts")
        max_logit_rows = max(max_logit_rows, max_sequences)
        self._logit_rows = self._integers(max_logit_rows, "logit_rows")
        self._blocks = self._integers(max_sequences * num_blocks, "blocks").reshape(max_sequences, num_blocks)
        self._logits = np.zeros((max_logit_rows, logits_stride // 4), np.float32)
        step["logits"] = self._logits.ctypes.data
        step["blocks_stride"], step["logits_stride"] = num_blocks * 4, logits_stride
        step["codes_offset"], step["factors_offset"] = codes_offset, factors_offset
        step["inputs_stride"], step["scratch_stride"] = inputs_stride, scratch_stride
        step["states_offset"], step["max_parts"] = states_offset, max_parts
        for name, num_bytes in {
            "hidden": max_tokens * a.embedding_length * 4,
            "projected": max_tokens * a.embedding_length * 4,
            "qkv": max_tokens * (width + 2 * kv_width) * 4,
            "attention": max_tokens * width * 4,
            "gate_up": max_rows * a.feed_forward_length * 8,
            "inputs": num_threads * inputs_stride,
            "scratch": num_threads * scratch_stride,
            "parts": max_parts * state_bytes(a.head_dim),
        }.items():
            step[name] = self._allocate(num_bytes)
        if a.experts:
            self._reserve_experts(a.experts, max_tokens, num_threads)
        self._pool = ThreadPool(num_threads, self._park)

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
        assert self._pool is not None
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
        compute(self._model, self._layers, self._step, self._tiles, self._pool.control, 0, num_threads)
        return self._logits[: logit_rows.size, : self.vocab_size]

    def read_block(self, block: int) -> bytes:
        """A copy of what all layers have in a cache block."""
        return b"".join(pages[:, block].tobytes() for pages in self._pages)

    def write_block(self, block: int, content: bytes | memoryview) -> None:
        """Puts back what `read_block` gave."""
        keys, values = (pages[:, block] for pages in self._pages)
        source = np.frombuffer(content, np.uint8)
        keys[:] = source[: keys.size].reshape(keys.shape)
        values[:] = source[keys.size :].reshape(values.shape)

    def close(self) -> None:
        """Ends the threads and gives the weights back."""
        if self._pool:
            self._pool.close()
        self._weights.close()

    def _park(self, control: int, thread: int) -> None:
        compute(self._model, self._layers, self._step, self._tiles, control, thread, 0)

    def _describe_model(self) -> None:
        a, model, tensors = self.architecture, self._model, self._weights.tensors
        _describe(model["token_embd"][0], tensors["token_embd.weight"])
        _describe(model["output"][0], tensors.get("output.weight", tensors["token_embd.weight"]))
        chosen = _chosen_natives(a, tensors, self._cache_types)
        routing = experts.NATIVES if a.experts else ()
        for name, value in {
            "output_norm": tensors["output_norm.weight"].address,
            "num_layers": a.num_layers,
            "width": a.embedding_length,
            "hidden_width": a.feed_forward_length,
            "num_heads": a.num_heads,
            "num_kv_heads": a.num_kv_heads,
            "head_dim": a.head_dim,
            "num_rotated_pairs": a.rotation.dimensions // 2,
            "key_page_bytes": a.num_kv_heads * CACHE_TYPES[self._cache_types.keys].page_bytes(a.head_dim),
            "value_page_bytes": a.num_kv_heads * CACHE_TYPES[self._cache_types.values].page_bytes(a.head_dim),
            "state_bytes": state_bytes(a.head_dim),
            "needs_values": any(_is_of_floats(t) for name, t in tensors.items() if "ffn_gate_inp" not in name),
            "num_experts": a.experts.count if a.experts else 0,
            "num_used_experts": a.experts.num_used if a.experts else 0,
            "experts_scale": a.experts.scale if a.experts else 0,
            "scores_width": _scores_width(a),
            "epsilon": a.norm_epsilon,
            "embedding_scale": a.embedding_length**0.5 if a.family.scales_embeddings else 1.0,
            "logit_softcap": a.logit_softcap,
            "attention_scale": a.attention_scale,
            "attention_softcap": a.attention_softcap,
            **{native.name: native.address for native in (*NATIVES, *routing)},
            **{name: native.address for name, native in chosen.items()},
        }.items():
            model[name] = value

    def _describe_layers(self) -> None:
        tensors = self._weights.tensors
        for index, layer in enumerate(self._layers):
            layer["window"] = self.architecture.window if self.architecture.local_layers[index] else 0
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
            self._layers[index]["rotations"] = (local if a.local_layers[index] else whole).ctypes.data

    def _frequency_factors(self) -> NDArray[np.float32] | None:
        """Llama 3's factors; Phi 3's, which has others for contexts beyond what it was first trained on."""
        goes_beyond = self.architecture.rotation.goes_beyond
        for name in ("rope_freqs", "rope_factors_long" if goes_beyond else "rope_factors_short"):
            if f"{name}.weight" in self._weights.tensors:
                return self._weights.vector(f"{name}.weight")
        return None

    def _allocate_cache(self, num_blocks: int) -> None:
        keys, values = (num_blocks * int(self._model[name][0]) for name in ("key_page_bytes", "value_page_bytes"))
        num_layers, layer_bytes = self.architecture.num_layers, keys + values
        cache = self._allocate(layer_bytes * num_layers)
        self._pages = [  # of keys and of values: (layers, blocks, bytes)
            np.ndarray((num_layers, num_blocks, size), np.uint8, self._memory[-1], offset, (layer_bytes, size, 1))
            for offset, size in ((0, keys // num_blocks), (keys, values // num_blocks))
        ]
        for index, layer in enumerate(self._layers):
            layer["keys"] = cache + index * layer_bytes
            layer["values"] = layer["keys"] + keys

    def _reserve_experts(self, facts: Experts, max_tokens: int, num_threads: int) -> None:
        max_rows, step = max_tokens * facts.num_used, self._step
        routes_stride = _aligned(experts.routes_bytes(max_rows, facts.count, facts.num_used))
        step["max_rows"], step["routes_stride"] = max_rows, routes_stride
        step["routes"] = self._allocate(num_threads * routes_stride)
        step["scores"] = self._allocate(max_tokens * _scores_width(self.architecture) * 4)
        step["expert_outputs"] = self._allocate(max_rows * self.architecture.embedding_length * 4)

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
    record["panel_bytes"] = tensor.format.matrix_bytes(LANES, tensor.num_columns)
    record["num_panels"] = -(-tensor.num_rows // LANES)
    record["num_columns"] = tensor.num_columns


def _is_of_floats(tensor: PackedTensor) -> bool:
    return tensor.format is not None and tensor.format.unpack is None


def _scores_width(a: Architecture) -> int:
    """Values in a row of the experts' scores: they come from whole panels."""
    return -(-a.experts.count // LANES) * LANES if a.experts else 0


def _split_fused_bias(layer: Any, a: Architecture) -> None:
    """A fused bias is those of q, k and v, one behind the other."""
    if layer["attn_qkv_bias"]:
        layer["attn_q_bias"] = layer["attn_qkv_bias"]
        layer["attn_k_bias"] = layer["attn_q_bias"] + a.num_heads * a.head_dim * 4
        layer["attn_v_bias"] = layer["attn_k_bias"] + a.num_kv_heads * a.head_dim * 4


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // 64) * 64
