"""What a model is, read from its GGUF metadata and checked: the numbers the decoder is built from.

A model family is a row of `FAMILIES`, which says what the file does not; what the file shows (biases, norms of heads,
tied embeddings) is read off its tensors. Files of other families are refused by name.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from worker.cursor import shown
from worker.errors import GGUFError, UnsupportedModel
from worker.model.rotation import Rotation


class ExpertUse(Enum):
    """Whether the feed-forward networks of a family's models are many, among which each token's scores choose."""

    NEVER = "never"
    SOMETIMES = "sometimes"
    ALWAYS = "always"


_SOFTMAX = 1  # expert_gating_func in files


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
    """One of FAMILIES; raises UnsupportedModel with all of them."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in FAMILIES:
        raise UnsupportedModel(f"architecture {name!r} is not supported; supported: {', '.join(FAMILIES)}")
    return name


def read_architecture(metadata: Mapping[str, Any], vocab_size: int) -> Architecture:
    """Reads and checks; raises UnsupportedModel or GGUFError naming the key and its value."""
    name = architecture_name(metadata)
    family, number = FAMILIES[name], _Numbers(name, metadata)
    num_heads, width = number("attention.head_count"), number("embedding_length")
    head_dim = number("attention.key_length", width // num_heads)
    rotation = _read_rotation(number, metadata.get(f"{name}.rope.scaling.type", "linear"), head_dim)
    local_base = number.real("rope.freq_base_swa", family.local_rope_base or rotation.base, least=1)
    num_layers, window = number("block_count", most=1024), number("attention.sliding_window", family.window, least=0)
    period = family.window_period
    if period != 1:
        period = number("attention.sliding_window_pattern", period, least=0)
    experts, feed_forward = _read_experts(name, family.experts, number, metadata), number("feed_forward_length")
    architecture = Architecture(
        name=name,
        family=family,
        num_layers=num_layers,
        embedding_length=width,
        feed_forward_length=number("expert_feed_forward_length", feed_forward) if experts else feed_forward,
        experts=experts,
        num_heads=num_heads,
        num_kv_heads=number("attention.head_count_kv", num_heads),
        head_dim=head_dim,
        context_length=number("context_length"),
        vocab_size=vocab_size,
        norm_epsilon=number.real("attention.layer_norm_rms_epsilon", most=1),
        attention_scale=_attention_scale(name, num_layers, width / num_heads, head_dim),
        attention_softcap=number.real("attn_logit_softcapping", 0.0),
        logit_softcap=number.real("final_logit_softcapping", 0.0),
        window=window,
        local_layers=_local_layers(period if window else 1, num_layers),
        rotation=rotation,
        local_rotation=Rotation(rotation.dimensions, local_base) if family.local_rope_base else rotation,
    )
    _check(architecture, number("attention.value_length", head_dim))
    return architecture


class _Numbers:
    """Metadata numbers of one architecture, checked as they are read."""

    def __init__(self, name: str, metadata: Mapping[str, Any]) -> None:
        self._name, self._metadata = name, metadata

    def __call__(self, key: str, default: int | None = None, *, least: int = 1, most: int = 1 << 24) -> int:
        """A whole number."""
        number: int = self._checked(key, default, int, least, most)
        return number

    def real(self, key: str, default: float | None = None, *, least: float = 0, most: float = 1e12) -> float:
        """Any number."""
        return float(self._checked(key, default, int | float, least, most))

    def _checked(self, key: str, default: float | None, kind: Any, least: float, most: float) -> Any:
        key = f"{self._name}.{key}"
        value = self._metadata.get(key, default)
        if value is None:
            raise GGUFError(f"metadata key {key} is missing")
        if isinstance(value, bool) or not isinstance(value, kind):
            told = shown(value.tolist() if isinstance(value, np.ndarray) else value)
            raise GGUFError(f"metadata key {key} is {told}, not a {'whole number' if kind is int else 'number'}")
        if not least <= value <= most:
            raise GGUFError(f"metadata key {key} is {value}, outside {least} to {most}")
        return value


def _read_experts(name: str, use: ExpertUse, number: _Numbers, metadata: Mapping[str, Any]) -> Experts | None:
    count = number("expert_count") if use is ExpertUse.ALWAYS else number("expert_count", 0, least=0)
    if count == 0:
        return None
    if use is ExpertUse.NEVER:
        raise UnsupportedModel(f"{name} with {count} experts is not supported")
    if (gating := number("expert_gating_func", _SOFTMAX, least=0)) not in (0, _SOFTMAX):
        raise UnsupportedModel(f"{name}.expert_gating_func {gating} is not supported; supported: {_SOFTMAX} (softmax)")
    if not metadata.get(f"{name}.expert_weights_norm", True):
        raise UnsupportedModel(f"{name} with {name}.expert_weights_norm false is not supported")
    scale = number.real("expert_weights_scale", 1.0)
    return Experts(count, number("expert_used_count", most=count), scale or 1.0)  # files write 0 for none


def _local_layers(period: int, num_layers: int) -> tuple[bool, ...]:
    return tuple(period == 0 or layer % period < period - 1 for layer in range(num_layers))


def _read_rotation(number: _Numbers, scaling: Any, head_dim: int) -> Rotation:
    if scaling not in ("none", "linear", "yarn", "longrope"):
        raise UnsupportedModel(f"rope scaling {scaling!r} is not supported; supported: none, linear, yarn, longrope")
    factor = number.real("rope.scaling.factor", 1.0, least=1e-6)
    return Rotation(
        dimensions=number("rope.dimension_count", head_dim),
        base=number.real("rope.freq_base", 10000.0, least=1),
        scale=1 / factor if scaling in ("linear", "yarn") else 1.0,  # longrope's factors are tensors
        original_context=number("rope.scaling.original_context_length", number("context_length")),
        extrapolation=number.real("rope.scaling.yarn_ext_factor", 1.0) if scaling == "yarn" else 0.0,
        attention_factor=number.real("rope.scaling.attn_factor", 1.0),
        beta_fast=number.real("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=number.real("rope.scaling.yarn_beta_slow", 1.0),
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
