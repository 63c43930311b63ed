"""From a GGUF file to a decoder that can answer: check the tensors, pack the weights, compile the kernels."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from worker.config import WorkerConfig
from worker.errors import GGUFError, UnsupportedModel
from worker.gguf import GGUF
from worker.kernels.cache_types import CACHE_TYPES
from worker.kernels.codes import BLOCK
from worker.kernels.compilation import Kernel, compile_all
from worker.kernels.jit import cache_folder
from worker.metadata import TOKENIZER, Entries
from worker.model.architecture import Architecture, Experts, read_architecture
from worker.model.decoder import CacheTypes, Decoder, kernels_for
from worker.model.finite import check_finite
from worker.model.rotation import retold
from worker.model.weights import pack_weights

Progress = Callable[[str, float], None]  # stage, fraction done
Expected = dict[str, tuple[tuple[int, ...], bool]]  # by tensor name: its shape, and whether no model can do without it

_SINGLE_EXPERT = re.compile(r"blk\.\d+\.ffn_(gate|up|down)\.\d+\.weight")


def load_model(
    gguf: GGUF, config: WorkerConfig, progress: Progress, other_kernels: Sequence[Kernel] = ()
) -> Decoder:
    """Compiles the model's kernels and `other_kernels`. UnsupportedModel or GGUFError name what does not fit."""
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None:
        raise GGUFError("tensor token_embd.weight is missing")
    if (num_tokens := len(Entries(gguf.metadata, TOKENIZER).texts("tokens"))) > embedding.shape[0]:
        raise GGUFError(f"{TOKENIZER}tokens has {num_tokens} tokens, token_embd.weight rows for {embedding.shape[0]}")
    architecture = _retold(read_architecture(gguf.metadata, embedding.shape[0]), config)
    cache = _cache_types(architecture, config)
    check_tensors(gguf, architecture)
    if config.checks_tensors:
        check_finite(gguf)
    folder = cache_folder() / "panels"
    weights = pack_weights(
        gguf, folder, lambda done: progress("packing weights", done), mapped=config.maps_weights
    )
    if config.locks_weights:
        weights.lock()
    kernels = [*other_kernels, *kernels_for(architecture, weights, cache)]
    compile_all(kernels, lambda done, total, name: progress(f"compiling kernels {done}/{total}", done / total))
    return Decoder(
        architecture,
        weights,
        num_threads=config.num_threads or usable_cores(),
        num_batch_threads=config.num_batch_threads,
        cache=cache,
    )


def _retold(a: Architecture, config: WorkerConfig) -> Architecture:
    """With the rotary embedding that the user wants. Base and scale are those of layers that see everything."""
    goes_beyond = (config.context_length or a.context_length) > a.rotation.original_context
    rotation = replace(retold(a.rotation, config.rope), goes_beyond=goes_beyond)
    if a.local_rotation == a.rotation:
        return replace(a, rotation=rotation, local_rotation=rotation)
    local_rope = replace(config.rope, base=None, scale=None)
    return replace(a, rotation=rotation, local_rotation=retold(a.local_rotation, local_rope))


def _cache_types(a: Architecture, config: WorkerConfig) -> CacheTypes:
    for flag, name in (("--cache-type-k", config.kv_type_k), ("--cache-type-v", config.kv_type_v)):
        if name not in CACHE_TYPES:
            supported = ", ".join(CACHE_TYPES)
            raise UnsupportedModel(f"KV cache type {name!r} ({flag}) is not supported; supported: {supported}")
        if not CACHE_TYPES[name].number and a.head_dim % BLOCK:
            raise UnsupportedModel(
                f"KV cache type {name} ({flag}) needs heads of a multiple of {BLOCK}; this model's have {a.head_dim}"
            )
    return CacheTypes(config.kv_type_k, config.kv_type_v)


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def check_tensors(gguf: GGUF, a: Architecture) -> None:
    """Every tensor the decoder reads is there, each has its shape, and there is none it would leave out."""
    expected = _expected(gguf, a)
    if single := [name for name in gguf.tensors if _SINGLE_EXPERT.fullmatch(name)]:
        raise UnsupportedModel(
            f"tensor {single[0]} holds one expert of a layer; only files that hold all of them in one tensor, such as "
            "blk.0.ffn_up_exps.weight, are supported: convert the model again"
        )
    if unknown := [name for name in gguf.tensors if name not in expected]:
        raise UnsupportedModel(
            f"this {a.name} model has {len(unknown)} tensors that this version does not use, such as {unknown[0]}"
        )
    for name, (shape, required) in expected.items():
        tensor = gguf.tensors.get(name)
        if tensor is None:
            if required:
                raise GGUFError(f"tensor {name} is missing")
        elif tensor.shape != shape:
            raise GGUFError(f"tensor {name} has shape {tensor.shape}, expected {shape}")


def _expected(gguf: GGUF, a: Architecture) -> Expected:
    """By tensor name: its shape, and whether the model cannot do without it."""
    width = a.embedding_length
    q, kv = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
    pairs = a.rotation.dimensions // 2
    tensors: Expected = {
        "token_embd.weight": ((a.vocab_size, width), True), "output_norm.weight": ((width,), True),
        "output.weight": ((a.vocab_size, width), False), "rope_freqs.weight": ((pairs,), False),
        "rope_factors_long.weight": ((pairs,), False), "rope_factors_short.weight": ((pairs,), False),
    }  # fmt: skip
    fused_qkv = "blk.0.attn_qkv.weight" in gguf.tensors
    feed_forward = _expert_tensors(a, a.experts) if a.experts else _feed_forward_tensors(gguf, a)
    for index in range(a.num_layers):
        layer = {
            "attn_norm.weight": ((width,), True),
            "attn_qkv.weight": ((q + 2 * kv, width), fused_qkv), "attn_qkv.bias": ((q + 2 * kv,), False),
            "attn_q.weight": ((q, width), not fused_qkv), "attn_q.bias": ((q,), False),
            "attn_k.weight": ((kv, width), not fused_qkv), "attn_k.bias": ((kv,), False),
            "attn_v.weight": ((kv, width), not fused_qkv), "attn_v.bias": ((kv,), False),
            "attn_q_norm.weight": ((a.head_dim,), False), "attn_k_norm.weight": ((a.head_dim,), False),
            "attn_output.weight": ((width, q), True), "post_attention_norm.weight": ((width,), False),
            "ffn_norm.weight": ((width,), True), **feed_forward,
        }  # fmt: skip
        tensors |= {f"blk.{index}.{name}": fact for name, fact in layer.items()}
    return tensors


def _feed_forward_tensors(gguf: GGUF, a: Architecture) -> Expected:
    width, hidden = a.embedding_length, a.feed_forward_length
    fused_gate = "blk.0.ffn_gate.weight" not in gguf.tensors
    return {
        "ffn_gate.weight": ((hidden, width), not fused_gate),
        "ffn_up.weight": ((hidden * (1 + fused_gate), width), True),
        "ffn_down.weight": ((width, hidden), True), "post_ffw_norm.weight": ((width,), False),
    }  # fmt: skip


def _expert_tensors(a: Architecture, experts: Experts) -> Expected:
    width, hidden, count = a.embedding_length, a.feed_forward_length, experts.count
    return {
        "ffn_gate_inp.weight": ((count, width), True), "ffn_gate_exps.weight": ((count, hidden, width), True),
        "ffn_up_exps.weight": ((count, hidden, width), True), "ffn_down_exps.weight": ((count, width, hidden), True),
    }  # fmt: skip
