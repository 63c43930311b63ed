"""From a GGUF file to a decoder that can answer: check the tensors, pack the weights, compile the kernels."""

import os
import re
from collections.abc import Callable, Sequence

from worker.config import WorkerConfig
from worker.errors import GGUFError, UnsupportedModel
from worker.gguf import GGUF
from worker.kernels.compilation import Kernel, compile_all
from worker.kernels.jit import cache_folder
from worker.model.architecture import Architecture, Experts, read_architecture
from worker.model.decoder import CacheTypes, Decoder, kernels_for
from worker.model.weights import pack_weights

Progress = Callable[[str, float], None]  # stage, fraction done
Expected = dict[str, tuple[tuple[int, ...], bool]]  # by tensor name: its shape, and whether no model can do without it

_SINGLE_EXPERT = re.compile(r"blk\.\d+\.ffn_(gate|up|down)\.\d+\.weight")


def load_model(
    gguf: GGUF, config: WorkerConfig, progress: Progress, other_kernels: Sequence[Kernel] = ()
) -> Decoder:
    """Compiles the model's kernels and `other_kernels`. UnsupportedModel or GGUFError name what does not fit."""
    if config.kv_type != "f16":
        raise UnsupportedModel(f"KV cache type {config.kv_type!r} is not supported; supported: f16")
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None:
        raise GGUFError("tensor token_embd.weight is missing")
    architecture = read_architecture(gguf.metadata, embedding.shape[0])
    check_tensors(gguf, architecture)
    weights = pack_weights(gguf, cache_folder() / "panels", lambda done: progress("packing weights", done))
    kernels = [*other_kernels, *kernels_for(architecture, weights, CacheTypes())]
    compile_all(kernels, lambda done, total, name: progress(f"compiling kernels {done}/{total}", done / total))
    return Decoder(architecture, weights, config.num_threads or usable_cores())


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
