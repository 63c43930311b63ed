"""What a model is, read from its GGUF metadata and checked: the numbers the decoder is built from.

A model family is a row of `FAMILIES`; files of other families are refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.errors import GGUFError, UnsupportedModel


@dataclass(frozen=True)
class Family:
    """What differs between families and is not said in the file."""

    rotates_pairs: bool  # rotary embedding turns (2i, 2i + 1); otherwise (i, i + half)


FAMILIES: dict[str, Family] = {
    "llama": Family(rotates_pairs=True),
}


@dataclass(frozen=True)
class Architecture:
    """The facts of one model."""

    name: str
    family: Family
    num_layers: int
    embedding_length: int
    feed_forward_length: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int  # trained
    vocab_size: int
    norm_epsilon: float
    rope_dimensions: int
    rope_base: float
    rope_scale: float  # positions are divided by it


def read_architecture(metadata: Mapping[str, Any], vocab_size: int) -> Architecture:
    """Reads and checks; raises UnsupportedModel or GGUFError naming the key and its value."""
    name = metadata.get("general.architecture")
    if name not in FAMILIES:
        raise UnsupportedModel(f"architecture {name!r} is not supported; supported: {', '.join(FAMILIES)}")

    def number(key: str, default: float | None = None, *, least: float = 1, most: float = 1 << 24) -> Any:
        value = metadata.get(f"{name}.{key}", default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise GGUFError(f"metadata key {name}.{key} is {'missing' if value is None else f'{value!r}, not a number'}")
        if not least <= value <= most:
            raise GGUFError(f"metadata key {name}.{key} is {value}, outside {least} to {most}")
        return value

    if number("expert_count", 0, least=0):
        raise UnsupportedModel(f"{name} with {number('expert_count')} experts is not supported")
    scaling = metadata.get(f"{name}.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise UnsupportedModel(f"rope scaling {scaling!r} is not supported; supported: none, linear")
    num_heads, width = number("attention.head_count"), number("embedding_length")
    head_dim = number("attention.key_length", width // num_heads)
    architecture = Architecture(
        name=name,
        family=FAMILIES[name],
        num_layers=number("block_count", most=1024),
        embedding_length=width,
        feed_forward_length=number("feed_forward_length"),
        num_heads=num_heads,
        num_kv_heads=number("attention.head_count_kv", num_heads),
        head_dim=head_dim,
        context_length=number("context_length"),
        vocab_size=vocab_size,
        norm_epsilon=number("attention.layer_norm_rms_epsilon", least=0, most=1),
        rope_dimensions=number("rope.dimension_count", head_dim),
        rope_base=number("rope.freq_base", 10000.0, most=1e12),
        rope_scale=number("rope.scaling.factor", 1.0, least=1e-6) if scaling == "linear" else 1.0,
    )
    _check(architecture, number("attention.value_length", head_dim))
    return architecture


def _check(a: Architecture, value_length: int) -> None:
    problems = {
        f"head size {a.head_dim} is not a multiple of 16": a.head_dim % 16,
        f"head size {a.head_dim} differs from value size {value_length}": a.head_dim != value_length,
        f"{a.num_heads} heads cannot share {a.num_kv_heads} key-value heads evenly": a.num_heads % a.num_kv_heads,
        f"{a.rope_dimensions} rotary dimensions do not fit heads of {a.head_dim}":
            a.rope_dimensions % 2 or a.rope_dimensions > a.head_dim,
        f"embedding length {a.embedding_length} is not a multiple of 32": a.embedding_length % 32,
        f"feed-forward length {a.feed_forward_length} is not a multiple of 32": a.feed_forward_length % 32,
    }
    for problem, present in problems.items():
        if present:
            raise UnsupportedModel(f"this {a.name} model cannot be run: {problem}")
