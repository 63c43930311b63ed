"""What a model is, read from its GGUF metadata and checked: the numbers the decoder is built from.

A model family is a row of `FAMILIES`, which says what the file does not; what the file shows (biases, norms of heads,
tied embeddings) is read off its tensors. Files of other families are refused by name.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from worker.cursor import shown
from worker.errors import UnsupportedModel
from worker.metadata import Entries
from worker.model.rotation import Rotation


class ExpertUse(Enum):
    """Whether the feed-forward networks of a family's models are many, among which each token's scores choose."""

    NEVER = "never"
    SOMETIMES = "sometimes"
    ALWAYS = "always"


_SOFTMAX = 1  # expert_gating_func in files
_SCALINGS = ("none", "linear", "yarn", "longrope")  # rope.scaling.type in files


@dataclass(frozen=True)
class Family:
    """What differs between families and is not said in the file."""

    rotates_pairs: bool = False  # rotary embedding turns (2i, 2i + 1); otherwise (i, i + half)
    activation: str = "silu"  # of the feed-forward gate: silu or gelu
    scales_embeddings: bool = False  # by the square root of their length
    window_period: int = 1  # of so many layers all but the last see only the window, if there is one; 0: all do
    window: int = 0  # where the file does not give one
    local_rope_base: float = 0.0  # of local layers; 0: the same as elsewhere
    experts: ExpertUse = ExpertUse.NEVER


FAMILIES: dict[str, Family] = {
    "llama": Family(rotates_pairs=True, experts=ExpertUse.SOMETIMES),
    "qwen2": Family(),
    "qwen3": Family(),
    "qwen3moe": Family(experts=ExpertUse.ALWAYS),
    "phi3": Family(window_period=0),
    "gemma2": Family(
        activation="gelu", scales_embeddings=True, window_period=2, window=4096, local_rope_base=10000.0
    ),
    "gemma3": Family(activation="gelu", scales_embeddings=True, window_period=6, local_rope_base=10000.0),
}


@dataclass(frozen=True)
class Experts:
    """The experts of every layer."""

    count: int
    num_used: int  # by a token
    scale: float  # what the weights of a token's experts add up to


@dataclass(frozen=True)
class Architecture:
    """The facts of one model."""

    name: str
    family: Family
    num_layers: int
    embedding_length: int
    feed_forward_length: int  # of one expert, where there are experts
    experts: Experts | None
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int  # trained
    vocab_size: int
    norm_epsilon: float
    attention_scale: float  # of query . key
    attention_softcap: float  # 0: none
    logit_softcap: float  # 0: none
    window: int  # positions that local layers see
    local_layers: tuple[bool, ...]  # which layers see only the window
    rotation: Rotation  # of layers that see everything
    local_rotation: Rotation


def architecture_name(metadata: Mapping[str, Any]) -> str:
    """One of FAMILIES; raises UnsupportedModel with all of them, GGUFError."""
    name = Entries(metadata).text("general.architecture")
    if name not in FAMILIES:
        raise UnsupportedModel(f"architecture {shown(name)} is not supported; supported: {', '.join(FAMILIES)}")
    return name


def read_architecture(metadata: Mapping[str, Any], vocab_size: int) -> Architecture:
    """Reads and checks; raises UnsupportedModel or GGUFError naming the key and its value."""
    name = architecture_name(metadata)
    family, entries = FAMILIES[name], Entries(metadata, f"{name}.")
    num_heads, width = entries.whole("attention.head_count"), entries.whole("embedding_length")
    head_dim = entries.whole("attention.key_length", width // num_heads)
    rotation = _read_rotation(entries, head_dim)
    local_base = entries.real("rope.freq_base_swa", family.local_rope_base or rotation.base, least=1)
    num_layers = entries.whole("block_count", most=1024)
    window = entries.whole("attention.sliding_window", family.window, least=0)
    period = family.window_period
    if period != 1:
        period = entries.whole("attention.sliding_window_pattern", period, least=0)
    experts, feed_forward = _read_experts(name, family.experts, entries), entries.whole("feed_forward_length")
    architecture = Architecture(
        name=name,
        family=family,
        num_layers=num_layers,
        embedding_length=width,
        feed_forward_length=entries.whole("expert_feed_forward_length", feed_forward) if experts else feed_forward,
        experts=experts,
        num_heads=num_heads,
        num_kv_heads=entries.whole("attention.head_count_kv", num_heads),
        head_dim=head_dim,
        context_length=entries.whole("context_length"),
        vocab_size=vocab_size,
        norm_epsilon=entries.real("attention.layer_norm_rms_epsilon", most=1),
        attention_scale=_attention_scale(name, num_layers, width / num_heads, head_dim),
        attention_softcap=entries.real("attn_logit_softcapping", 0.0),
        logit_softcap=entries.real("final_logit_softcapping", 0.0),
        window=window,
        local_layers=_local_layers(period if window else 1, num_layers),
        rotation=rotation,
        local_rotation=Rotation(rotation.dimensions, local_base) if family.local_rope_base else rotation,
    )
    _check(architecture, entries.whole("attention.value_length", head_dim))
    return architecture


def _read_experts(name: str, use: ExpertUse, entries: Entries) -> Experts | None:
    count = entries.whole("expert_count") if use is ExpertUse.ALWAYS else entries.whole("expert_count", 0, least=0)
    if count == 0:
        return None
    if use is ExpertUse.NEVER:
        raise UnsupportedModel(f"{name} with {count} experts is not supported")
    if (gating := entries.whole("expert_gating_func", _SOFTMAX, least=0)) not in (0, _SOFTMAX):
        raise UnsupportedModel(f"{name}.expert_gating_func {gating} is not supported; supported: {_SOFTMAX} (softmax)")
    if not entries.flag("expert_weights_norm", True):
        raise UnsupportedModel(f"{name} with {name}.expert_weights_norm false is not supported")
    scale = entries.real("expert_weights_scale", 1.0)
    return Experts(count, entries.whole("expert_used_count", most=count), scale or 1.0)  # files write 0 for none


def _local_layers(period: int, num_layers: int) -> tuple[bool, ...]:
    return tuple(period == 0 or layer % period < period - 1 for layer in range(num_layers))


def _read_rotation(entries: Entries, head_dim: int) -> Rotation:
    scaling = entries.text("rope.scaling.type", "linear")
    if scaling not in _SCALINGS:
        raise UnsupportedModel(f"rope scaling {shown(scaling)} is not supported; supported: {', '.join(_SCALINGS)}")
    factor = entries.real("rope.scaling.factor", 1.0, least=1e-6)
    return Rotation(
        dimensions=entries.whole("rope.dimension_count", head_dim),
        base=entries.real("rope.freq_base", 10000.0, least=1),
        scale=1 / factor if scaling in ("linear", "yarn") else 1.0,  # longrope's factors are tensors
        original_context=entries.whole("rope.scaling.original_context_length", entries.whole("context_length")),
        extrapolation=entries.real("rope.scaling.yarn_ext_factor", 1.0) if scaling == "yarn" else 0.0,
        attention_factor=entries.real("rope.scaling.attn_factor", 1.0),
        beta_fast=entries.real("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=entries.real("rope.scaling.yarn_beta_slow", 1.0),
    )


def _attention_scale(name: str, num_layers: int, width_per_head: float, head_dim: int) -> float:
    """The 27-billion Gemmas scale queries by the width per head, as no key of the file says."""
    if (name, num_layers) in (("gemma2", 46), ("gemma3", 62)):
        return 1 / math.sqrt(width_per_head)
    return 1 / math.sqrt(head_dim)


def _check(a: Architecture, value_length: int) -> None:
    dimensions = a.rotation.dimensions
    problems = {
        f"head size {a.head_dim} is not a multiple of 16": a.head_dim % 16,
        f"head size {a.head_dim} differs from value size {value_length}": a.head_dim != value_length,
        f"{a.num_heads} heads cannot share {a.num_kv_heads} key-value heads evenly": a.num_heads % a.num_kv_heads,
        f"{dimensions} rotary dimensions do not fit heads of {a.head_dim}": dimensions % 2 or dimensions > a.head_dim,
        f"embedding length {a.embedding_length} is not a multiple of 32": a.embedding_length % 32,
        f"feed-forward length {a.feed_forward_length} is not a multiple of 32": a.feed_forward_length % 32,
    }
    for problem, present in problems.items():
        if present:
            raise UnsupportedModel(f"this {a.name} model cannot be run: {problem}")
