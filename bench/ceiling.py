"""What no engine can pass: a model's bytes and products per token against the machine's measured rates.

Called by peers.py. Invariant: a ceiling leaves out attention and cached keys, so that it is never too low.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.limits import Limits
from worker.gguf import GGUF


@dataclass(frozen=True, slots=True)
class Weights:
    """What one token costs at least."""

    generated_bytes: int  # read for a step of generation
    prompt_products: int  # multiply-adds for a prompt token, whose logits nobody wants
    head_products: int  # for the logits of a token


def weigh(path: Path) -> Weights:
    """A tied embedding is the head, and read; one that is not is only looked up. Of experts, those in use count."""
    with GGUF.open(path) as gguf:
        sizes = {name: tensor.data.nbytes for name, tensor in gguf.tensors.items()}
        products = {name: int(np.prod(t.shape)) for name, t in gguf.tensors.items() if len(t.shape) > 1}
        used = _used_experts(gguf.metadata)
    head = "output.weight" if "output.weight" in sizes else "token_embd.weight"
    layers = [name for name in sizes if name.startswith("blk.")]
    part = {name: used if "_exps." in name else 1.0 for name in sizes}
    return Weights(
        generated_bytes=round(sum(sizes[name] * part[name] for name in [*layers, head])),
        prompt_products=round(sum(products.get(name, 0) * part[name] for name in layers)),
        head_products=products[head],
    )


def _used_experts(metadata: Mapping[str, Any]) -> float:
    """The part of a layer's experts that a token meets."""
    architecture = metadata["general.architecture"]
    num_experts = int(metadata.get(f"{architecture}.expert_count", 0))
    return int(metadata.get(f"{architecture}.expert_used_count", 1)) / num_experts if num_experts else 1.0


def ceiling(test: str, weights: Weights, limit: Limits) -> float:
    """Tokens a second at the most, in a test named as engines.py names them."""
    if test.startswith("pp"):
        return limit.products / weights.prompt_products
    steps = limit.read_bytes / weights.generated_bytes
    if not test.startswith("S_TG"):
        return steps
    return min(steps * int(test.split()[1]), limit.products / (weights.prompt_products + weights.head_products))
