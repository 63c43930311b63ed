"""Every architecture's forward pass in NumPy and float64, read off its definition: the truth about a model file.

Tests compare the decoder with it, and it with a peer's answers. Invariant: nothing is taken from worker/model; weights
come from worker.quants.dequantize, which has its own second opinion. One sequence, all positions at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.naive import (
    Floats,
    gelu,
    matmul,
    quantise,
    rms_norm,
    rope_frequencies,
    rotate_halves,
    rotate_pairs,
    silu,
    soft_cap,
    softmax,
    through_cache,
)
from worker.gguf import GGUF
from worker.quants import dequantize

NOT_QUANTISED = ("F32", "F16", "BF16")  # products with these types take activations as they are


@dataclass(frozen=True)
class Conventions:
    """What is so in all models of an architecture, and stands in no file."""

    rotate: Callable[..., Floats] = rotate_halves
    activation: Callable[[Floats], Floats] = silu
    scaled_embeddings: bool = False
    is_local: Callable[[int, int], bool] = lambda layer, period: False  # whether a layer sees only the window
    period: int = 0  # of windows, where the file gives none
    local_rope_base: float | None = None  # of layers with a window, which then know no scaling either


def _all_but_the_last(layer: int, period: int) -> bool:
    return (layer + 1) % period != 0


CONVENTIONS = {
    "llama": Conventions(rotate=rotate_pairs),
    "qwen2": Conventions(),
    "qwen3": Conventions(),
    "qwen3moe": Conventions(),
    "phi3": Conventions(is_local=lambda layer, period: True),
    "gemma2": Conventions(activation=gelu, scaled_embeddings=True, is_local=_all_but_the_last, period=2),
    "gemma3": Conventions(
        activation=gelu, scaled_embeddings=True, is_local=_all_but_the_last, period=6, local_rope_base=10000.0
    ),
}


class Model:
    """A model file, computed slowly.

    exact: activations and cache in float64. Otherwise they are rounded where the engine stores them: activations to
    int8 at the inputs of quantised matrices, keys and values to the type of the `cache`.
    """

    def __init__(self, gguf: GGUF, *, exact: bool, context_length: int = 0, cache: str = "f16") -> None:
        """context_length: of the longest sequence; some models turn their heads otherwise when it is long."""
        self.exact, self.cache = exact, cache
        self.context_length = context_length
        self._quantised = {name: t.type.name not in NOT_QUANTISED for name, t in gguf.tensors.items()}
        self._weights = {name: dequantize(t.type, t.data, t.shape) for name, t in gguf.tensors.items()}
        self._name = gguf.metadata["general.architecture"]
        self._metadata = gguf.metadata
        self._conventions = CONVENTIONS[self._name]
        self.num_heads = self._fact("attention.head_count")
        self.head_dim = self._fact("attention.key_length", self._fact("embedding_length") // self.num_heads)

    def _fact(self, key: str, default: Any = None) -> Any:
        value = self._metadata.get(f"{self._name}.{key}", default)
        assert value is not None, key
        return value

    def logits(self, tokens: Sequence[int]) -> Floats:
        """(tokens, vocab): row t is what follows tokens[: t + 1]."""
        hidden = self._weights["token_embd.weight"][np.array(tokens)].astype(np.float64)
        if self._conventions.scaled_embeddings:
            hidden *= self._fact("embedding_length") ** 0.5
        for layer in range(self._fact("block_count")):
            name = f"blk.{layer}"
            attended = self._attention(layer, self._norm(f"{name}.attn_norm", hidden))
            hidden += self._norm_if_there(f"{name}.post_attention_norm", attended)
            fed = self._feed_forward(name, self._norm(f"{name}.ffn_norm", hidden))
            hidden += self._norm_if_there(f"{name}.post_ffw_norm", fed)
        head = "output" if "output.weight" in self._weights else "token_embd"
        logits = self._product(head, self._norm("output_norm", hidden))
        cap = self._fact("final_logit_softcapping", 0.0)
        return soft_cap(logits, cap) if cap else logits

    def _norm(self, name: str, values: Floats) -> Floats:
        return rms_norm(values, self._weights[f"{name}.weight"], self._fact("attention.layer_norm_rms_epsilon"))

    def _norm_if_there(self, name: str, values: Floats) -> Floats:
        return self._norm(name, values) if f"{name}.weight" in self._weights else values

    def _product(self, name: str, values: Floats, *, expert: int | None = None) -> Floats:
        if self._quantised[f"{name}.weight"] and not self.exact:
            values = quantise(values).values
        weights = self._weights[f"{name}.weight"]
        out = matmul(weights if expert is None else weights[expert], values)
        return out + self._weights.get(f"{name}.bias", 0.0)

    # feed-forward

    def _feed_forward(self, layer: str, values: Floats) -> Floats:
        if f"{layer}.ffn_gate_inp.weight" in self._weights:
            return self._experts(layer, values)
        up = self._product(f"{layer}.ffn_up", values)
        if f"{layer}.ffn_gate.weight" in self._weights:
            gate = self._product(f"{layer}.ffn_gate", values)
        else:
            gate, up = np.split(up, 2, axis=-1)
        return self._product(f"{layer}.ffn_down", self._conventions.activation(gate) * up)

    def _experts(self, layer: str, values: Floats) -> Floats:
        """Token by token; the probabilities of the chosen experts are made to add up to 1, or to the file's scale."""
        probabilities = softmax(self._product(f"{layer}.ffn_gate_inp", values))
        out = np.zeros_like(values)
        for token, shares in enumerate(probabilities):
            chosen = np.argsort(-shares, kind="stable")[: self._fact("expert_used_count")]
            for expert in chosen:
                value = values[token : token + 1]
                gate = self._product(f"{layer}.ffn_gate_exps", value, expert=expert)
                up = self._product(f"{layer}.ffn_up_exps", value, expert=expert)
                down = self._product(f"{layer}.ffn_down_exps", self._conventions.activation(gate) * up, expert=expert)
                out[token] += shares[expert] / shares[chosen].sum() * down[0]
        return out * self._fact("expert_weights_scale", 1.0)

    # attention

    def _attention(self, layer: int, values: Floats) -> Floats:
        query, keys, cached_values = self._queries_keys_values(f"blk.{layer}", values)
        local = self._is_local(layer)
        query = self._turned(self._norm_if_there(f"blk.{layer}.attn_q_norm", query), local)
        keys = self._cached(self._turned(self._norm_if_there(f"blk.{layer}.attn_k_norm", keys), local))
        cached_values = self._cached(cached_values)
        seen = self._seen(len(values), local)
        out = np.empty_like(query)
        for head in range(self.num_heads):
            kv_head = head * keys.shape[1] // self.num_heads
            scores = matmul(keys[:, kv_head], query[:, head]) * self._scale()
            if cap := self._fact("attn_logit_softcapping", 0.0):
                scores = soft_cap(scores, cap)
            out[:, head] = matmul(cached_values[:, kv_head].T, softmax(np.where(seen, scores, -np.inf)))
        return self._product(f"blk.{layer}.attn_output", out.reshape(len(out), -1))

    def _seen(self, num_tokens: int, local: bool) -> NDArray[np.bool_]:
        """(tokens, positions): whether a token sees a position."""
        distance = np.arange(num_tokens)[:, None] - np.arange(num_tokens)
        return (distance >= 0) & (distance < (self._window() if local else num_tokens))

    def _queries_keys_values(self, layer: str, values: Floats) -> tuple[Floats, Floats, Floats]:
        """(tokens, heads, head_dim) each."""
        if f"{layer}.attn_qkv.weight" in self._weights:
            heads = self._product(f"{layer}.attn_qkv", values).reshape(len(values), -1, self.head_dim)
            num_kv_heads = (heads.shape[1] - self.num_heads) // 2
            query, keys, cached_values = np.split(heads, [self.num_heads, self.num_heads + num_kv_heads], axis=1)
            return query, keys, cached_values
        query, keys, cached_values = (
            self._product(f"{layer}.attn_{name}", values).reshape(len(values), -1, self.head_dim) for name in "qkv"
        )
        return query, keys, cached_values

    def _cached(self, heads: Floats) -> Floats:
        return heads if self.exact else through_cache(self.cache, heads)

    def _window(self) -> int:
        return int(self._fact("attention.sliding_window", {"gemma2": 4096}.get(self._name, 0)))

    def _is_local(self, layer: int) -> bool:
        period = self._fact("attention.sliding_window_pattern", self._conventions.period)
        return self._window() > 0 and self._conventions.is_local(layer, period)

    def _scale(self) -> float:
        """The largest Gemmas, of 27 billion weights, scale by the width per head, which is not the heads' size."""
        if (self._name, self._fact("block_count")) in (("gemma2", 46), ("gemma3", 62)):
            return float(self._fact("embedding_length") / self.num_heads) ** -0.5
        return float(self.head_dim**-0.5)

    # rotary positions

    def _turned(self, heads: Floats, local: bool) -> Floats:
        dimensions = self._fact("rope.dimension_count", self.head_dim)
        if local and self._conventions.local_rope_base:
            frequencies, magnitude = rope_frequencies(dimensions, self._conventions.local_rope_base), 1.0
        else:
            frequencies, magnitude = self._scaled_frequencies(dimensions)
        turned = self._conventions.rotate(heads, np.arange(len(heads)), frequencies)
        turned[..., :dimensions] *= magnitude
        return turned

    def _scaled_frequencies(self, dimensions: int) -> tuple[Floats, float]:
        """And what rotated values are multiplied by."""
        frequencies = rope_frequencies(dimensions, self._fact("rope.freq_base", 10000.0))
        factor = self._fact("rope.scaling.factor", 1.0)
        match self._fact("rope.scaling.type", "none"):
            case "linear":
                return frequencies / factor, 1.0
            case "yarn":
                return self._yarn(frequencies, factor), 1 + 0.1 * float(np.log(factor))
            case "longrope":
                original = self._fact("rope.scaling.original_context_length")
                factors = self._weights[f"rope_factors_{'long' if self.context_length > original else 'short'}.weight"]
                return frequencies / factors, self._fact("rope.scaling.attn_factor", 1.0)
        return frequencies / self._weights.get("rope_freqs.weight", 1.0), 1.0

    def _yarn(self, frequencies: Floats, factor: float) -> Floats:
        """Pairs that turn more than 32 times within the original context stay, those that turn less than once are
        slowed down by the factor, and between the two, pair numbers rounded outwards, the change is gradual."""
        original, base = self._fact("rope.scaling.original_context_length"), self._fact("rope.freq_base", 10000.0)
        num_pairs = len(frequencies)
        turning = [num_pairs * np.log(original / (2 * np.pi * turns)) / np.log(base) for turns in (32, 1)]
        first, last = max(0, np.floor(turning[0])), min(2 * num_pairs - 1, np.ceil(turning[1]))
        slowed = np.clip((np.arange(num_pairs) - first) / (last - first), 0, 1)
        return frequencies * (1 - slowed) + frequencies / factor * slowed
