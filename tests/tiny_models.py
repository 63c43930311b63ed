"""Tiny models of every architecture with random weights, one row each, written as whole GGUF files.

tests/worker/model compares them with the slow twin, tests/parity with what a peer said of the very same files: a row
and a type of weights give the same bytes on every machine, so that nothing binary has to be kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from tests.fixtures_gguf import add_value, byte_level_bpe, tokenizer_metadata

VOCAB_SIZE = 384
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Tiny:
    """A model's shape, its metadata (without the architecture's name), and the tensors that not all models have."""

    architecture: str = "llama"
    layers: int = 2
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    feed_forward: int = 96
    experts: int = 0
    tied: bool = False
    fused: bool = False  # q, k and v in one matrix, gate and up in another
    biases: bool = False
    head_norms: bool = False
    post_norms: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    rope_tensors: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # name: from the first to the last


_GEMMA2 = Tiny(
    "gemma2", layers=4, head_dim=32, tied=True, post_norms=True,
    metadata={"attention.sliding_window": 24, "attn_logit_softcapping": 4.0, "final_logit_softcapping": 3.0},
)  # fmt: skip
_YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128}
_LONGROPE = {"rope.scaling.type": "longrope", "rope.scaling.attn_factor": 1.19}
_LONGROPE_TENSORS = {"rope_factors_long": (1.5, 40.0), "rope_factors_short": (1.0, 2.5)}

MODELS: dict[str, Tiny] = {
    "llama": Tiny(),
    "llama with factors": Tiny(metadata={"rope.freq_base": 500000.0}, rope_tensors={"rope_freqs": (1.0, 32.0)}),
    "llama, linear": Tiny(metadata={"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
    "llama, yarn": Tiny(head_dim=32, metadata=_YARN),
    "mistral": Tiny(head_dim=32, kv_heads=1, metadata={"rope.freq_base": 1000000.0}),
    "smollm": Tiny(width=96, heads=3, kv_heads=1, head_dim=32, feed_forward=160, tied=True),
    "qwen2": Tiny("qwen2", biases=True, tied=True, metadata={"rope.freq_base": 1000000.0}),
    "qwen3": Tiny("qwen3", head_dim=32, head_norms=True, metadata={"rope.freq_base": 1000000.0}),
    "gemma2": _GEMMA2,
    "gemma2, 46 layers": Tiny(
        "gemma2", layers=46, width=96, heads=2, kv_heads=1, head_dim=32, tied=True, post_norms=True,
        metadata=_GEMMA2.metadata,
    ),
    "gemma3": Tiny(
        "gemma3", layers=8, head_dim=32, tied=True, head_norms=True, post_norms=True,
        metadata={"attention.sliding_window": 24, "rope.freq_base": 1000000.0, "rope.scaling.type": "linear",
                  "rope.scaling.factor": 8.0},
    ),
    "gemma3, windows in turn": Tiny(
        "gemma3", layers=4, head_dim=32, tied=True, head_norms=True, post_norms=True,
        metadata={"attention.sliding_window": 40, "attention.sliding_window_pattern": 3},
    ),
    "phi3": Tiny("phi3", kv_heads=4, fused=True),
    "phi3 with a window": Tiny("phi3", fused=True, metadata={"attention.sliding_window": 24}),
    "phi3, short context": Tiny(
        "phi3", fused=True, rope_tensors=_LONGROPE_TENSORS,
        metadata=_LONGROPE | {"rope.scaling.original_context_length": 2048},
    ),
    "phi3, long context": Tiny(
        "phi3", fused=True, rope_tensors=_LONGROPE_TENSORS,
        metadata=_LONGROPE | {"rope.scaling.original_context_length": 64},
    ),
    "mixtral": Tiny(experts=8, metadata={"expert_used_count": 2}),
    "mixtral, all experts": Tiny(experts=5, metadata={"expert_used_count": 5}),
    "mixtral, one expert, scaled": Tiny(experts=17, metadata={"expert_used_count": 1, "expert_weights_scale": 1.75}),
    "qwen3moe": Tiny(
        "qwen3moe", head_dim=32, head_norms=True, experts=20, feed_forward=32,
        metadata={"expert_used_count": 4, "expert_feed_forward_length": 32},
    ),
}  # fmt: skip


def write_model(path: Path, model: Tiny, quant: str = "F32", seed: int = 0) -> Path:
    """Writes the file and returns its path; `quant` is the type of the matrices that a file of this type quantises."""
    writer = gguf.GGUFWriter(path, model.architecture)
    for key, value in _facts(model).items():
        add_value(writer, f"{model.architecture}.{key}", value)
    for key, value in tokenizer_metadata(byte_level_bpe(VOCAB_SIZE)).items():
        add_value(writer, key, value)
    random = np.random.RandomState(seed)  # its stream is frozen for all versions
    for name, shape in _matrices(model).items():
        weights = (random.standard_normal(shape) * 1.5 / shape[-1] ** 0.5).astype(np.float32)
        type = GGMLQuantizationType["F32" if "ffn_gate_inp" in name else quant]
        writer.add_tensor(f"{name}.weight", gguf.quantize(weights, type), raw_dtype=type)
    for name, values in _vectors(model, random).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _facts(model: Tiny) -> dict[str, Any]:
    facts = {
        "block_count": model.layers,
        "context_length": 2048,
        "embedding_length": model.width,
        "feed_forward_length": model.feed_forward,
        "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads,
        "attention.key_length": model.head_dim,
        "attention.value_length": model.head_dim,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": model.head_dim,
        "rope.freq_base": 10000.0,
        "vocab_size": VOCAB_SIZE,
    }
    return facts | ({"expert_count": model.experts} if model.experts else {}) | dict(model.metadata)


def _matrices(model: Tiny) -> dict[str, tuple[int, ...]]:
    q, kv = model.heads * model.head_dim, model.kv_heads * model.head_dim
    width, hidden = model.width, model.feed_forward
    if model.fused:
        layer = {"attn_qkv": (q + 2 * kv, width)}
    else:
        layer = {"attn_q": (q, width), "attn_k": (kv, width), "attn_v": (kv, width)}
    layer["attn_output"] = (width, q)
    if model.experts:
        layer |= {
            "ffn_gate_inp": (model.experts, width), "ffn_gate_exps": (model.experts, hidden, width),
            "ffn_up_exps": (model.experts, hidden, width), "ffn_down_exps": (model.experts, width, hidden),
        }  # fmt: skip
    elif model.fused:
        layer |= {"ffn_up": (2 * hidden, width), "ffn_down": (width, hidden)}
    else:
        layer |= {"ffn_gate": (hidden, width), "ffn_up": (hidden, width), "ffn_down": (width, hidden)}
    ends = {"token_embd": (VOCAB_SIZE, width)} | ({} if model.tied else {"output": (VOCAB_SIZE, width)})
    return ends | {f"blk.{i}.{name}": shape for i in range(model.layers) for name, shape in layer.items()}


def _vectors(model: Tiny, random: np.random.RandomState) -> dict[str, Floats]:
    """Norms, biases, and factors of rotary frequencies."""
    q, kv, width = model.heads * model.head_dim, model.kv_heads * model.head_dim, model.width
    norms = {"attn_norm": width, "ffn_norm": width}
    if model.head_norms:
        norms |= {"attn_q_norm": model.head_dim, "attn_k_norm": model.head_dim}
    if model.post_norms:
        norms |= {"post_attention_norm": width, "post_ffw_norm": width}
    biases = {"attn_q": q, "attn_k": kv, "attn_v": kv} if model.biases else {}
    vectors = {"output_norm.weight": random.uniform(0.5, 1.5, width).astype(np.float32)}
    for layer in range(model.layers):
        for name, length in norms.items():
            vectors[f"blk.{layer}.{name}.weight"] = random.uniform(0.5, 1.5, length).astype(np.float32)
        for name, length in biases.items():
            vectors[f"blk.{layer}.{name}.bias"] = random.uniform(-1, 1, length).astype(np.float32)
    for name, (first, last) in model.rope_tensors.items():
        vectors[f"{name}.weight"] = np.linspace(first, last, model.head_dim // 2).astype(np.float32)
    return vectors
