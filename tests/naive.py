"""The slow twins: every fast kernel again, in NumPy and float64, as its definition says it.

Tests of worker/kernels and worker/model compare with these. `Llama` is a whole model. Invariant: nothing here shares
code with the kernels; weights come from worker.quants.dequantize, which has its own second opinion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.gguf import GGUF
from worker.quants import dequantize

Floats = NDArray[np.float64]

BLOCK = 32  # activations that share a scale
PAGE = 16  # positions of a cache block
NOT_QUANTISED = ("F32", "F16", "BF16")  # products with these types take activations as they are


@dataclass(frozen=True)
class Quantised:
    """int8 activations: value = scale * code."""

    codes: NDArray[np.int32]  # (..., blocks, 32)
    scales: NDArray[np.float32]  # (..., blocks)

    @property
    def sums(self) -> NDArray[np.int32]:
        return self.codes.sum(axis=-1, dtype=np.int32)

    @property
    def values(self) -> Floats:
        values = self.codes * self.scales[..., None].astype(np.float64)
        return values.reshape(*values.shape[:-2], -1)


def quantise(values: NDArray[np.floating]) -> Quantised:
    """Blocks of 32 along the last axis: the largest magnitude becomes 127, halves go to even. In f32, as in kernels."""
    blocks = values.astype(np.float32).reshape(*values.shape[:-1], -1, BLOCK)
    largest = np.abs(blocks).max(axis=-1)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    return Quantised(np.rint(blocks * inverse[..., None]).astype(np.int32), largest / np.float32(127))


def matmul(weights: NDArray[np.floating], activations: NDArray[np.floating]) -> Floats:
    """(rows, columns), (tokens, columns) -> (tokens, rows)."""
    return activations.astype(np.float64) @ weights.astype(np.float64).T


def rms_norm(values: NDArray[np.floating], weight: NDArray[np.floating], epsilon: float) -> Floats:
    values = values.astype(np.float64)
    return values / np.sqrt(np.mean(values**2, axis=-1, keepdims=True) + epsilon) * weight


def rotate_pairs(
    heads: NDArray[np.floating],
    positions: NDArray[np.integer],
    dimensions: int,
    base: float,
    divisors: Floats | float = 1.0,
) -> Floats:
    """RoPE of neighbours (2i, 2i + 1) among the first `dimensions` values.

    heads: (tokens, heads, head_dim); positions: (tokens,); divisors: of the frequencies, (dimensions / 2,) or one.
    """
    frequencies = base ** (-np.arange(0, dimensions, 2) / dimensions) / divisors
    turns = np.exp(1j * positions[:, None] * frequencies)[:, None, :]  # (tokens, 1, pairs)
    turned = (heads[..., 0:dimensions:2] + 1j * heads[..., 1:dimensions:2]) * turns
    out = heads.astype(np.float64)
    out[..., 0:dimensions:2], out[..., 1:dimensions:2] = turned.real, turned.imag
    return out


def silu(x: NDArray[np.floating]) -> Floats:
    x = x.astype(np.float64)
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-x))


def gelu(x: NDArray[np.floating]) -> Floats:
    """The tanh form."""
    x = x.astype(np.float64)
    return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def soft_cap(x: NDArray[np.floating], limit: float) -> Floats:
    return limit * np.tanh(x.astype(np.float64) / limit)


def gated(gate: NDArray[np.floating], up: NDArray[np.floating]) -> Floats:
    return silu(gate) * up


def softmax(scores: Floats) -> Floats:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def attend(
    query: NDArray[np.floating],
    keys: NDArray[np.floating],
    values: NDArray[np.floating],
    scale: float,
    cap: float = 0.0,
) -> Floats:
    """One head, one query: (head_dim,), (positions, head_dim), (positions, head_dim) -> (head_dim,); cap 0: none."""
    scores = keys.astype(np.float64) @ query.astype(np.float64) * scale
    if cap:
        scores = soft_cap(scores, cap)
    return softmax(scores) @ values.astype(np.float64)


def read_pages(
    keys: NDArray[np.floating], values: NDArray[np.floating], table: Sequence[int], num_positions: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The first positions of one sequence and KV head, (positions, head_dim) each.

    keys: (pages, head_dim, 16); values: (pages, head_dim / 16, 16, 16); table: the sequence's pages in order.
    """
    pages = list(table)
    head_dim = keys.shape[1]
    keys_in_order = keys[pages].transpose(0, 2, 1).reshape(-1, head_dim)
    values_in_order = values[pages].transpose(0, 2, 1, 3).reshape(-1, head_dim)
    return keys_in_order[:num_positions], values_in_order[:num_positions]


def through_cache(name: str, rows: NDArray[np.floating]) -> Floats:
    """What a cache of a type gives back for (..., head_dim) values."""
    if name in ("f32", "f16"):
        limit = np.finfo(np.dtype(name.replace("f", "float"))).max
        return np.clip(rows, -limit, limit).astype(name.replace("f", "float")).astype(np.float64)
    if name == "bf16":
        bits = rows.astype(np.float32).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
        return rounded.view(np.float32).astype(np.float64)
    groups = rows.astype(np.float32).reshape(-1, 32)
    if name == "q8_0":
        scale = np.abs(groups).max(axis=1, keepdims=True) / np.float32(127)
        codes = np.rint(groups * _inverse(scale))
    else:
        extreme = np.take_along_axis(groups, np.abs(groups).argmax(axis=1)[:, None], axis=1)
        scale = extreme / np.float32(-8)
        codes = np.rint(np.minimum(groups * _inverse(scale) + 8, 15)) - 8
    return (codes * scale.astype(np.float16).astype(np.float64)).reshape(rows.shape)


def _inverse(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)


class Llama:
    """The llama architecture read straight from its definition; one sequence, all positions at once.

    exact: activations and cache in float64. Otherwise they are rounded where the engine stores them: activations to
    int8 at the inputs of quantised matrices, keys and values to f16.
    """

    def __init__(self, gguf: GGUF, *, exact: bool) -> None:
        self.exact = exact
        self._quantised = {name: t.type.name not in NOT_QUANTISED for name, t in gguf.tensors.items()}
        self._weights = {name: dequantize(t.type, t.data, t.shape) for name, t in gguf.tensors.items()}
        facts = {key.removeprefix("llama."): value for key, value in gguf.metadata.items()}
        self.num_layers, self.num_heads = facts["block_count"], facts["attention.head_count"]
        self.num_kv_heads = facts.get("attention.head_count_kv", self.num_heads)
        self.head_dim = facts.get("attention.key_length", facts["embedding_length"] // self.num_heads)
        self.epsilon = facts["attention.layer_norm_rms_epsilon"]
        self.rope_dimensions = facts.get("rope.dimension_count", self.head_dim)
        self.rope_base = facts.get("rope.freq_base", 10000.0)
        self.rope_scale = facts["rope.scaling.factor"] if facts.get("rope.scaling.type") == "linear" else 1.0

    def logits(self, tokens: Sequence[int]) -> Floats:
        """(tokens, vocab): row t is what follows tokens[: t + 1]."""
        hidden = self._weights["token_embd.weight"][np.array(tokens)].astype(np.float64)
        for layer in range(self.num_layers):
            hidden += self._attention(f"blk.{layer}", self._norm(f"blk.{layer}.attn_norm", hidden))
            hidden += self._feed_forward(f"blk.{layer}", self._norm(f"blk.{layer}.ffn_norm", hidden))
        head = "output" if "output.weight" in self._weights else "token_embd"
        return self._product(head, self._norm("output_norm", hidden))

    def _norm(self, name: str, values: Floats) -> Floats:
        return rms_norm(values, self._weights[f"{name}.weight"], self.epsilon)

    def _product(self, name: str, values: Floats) -> Floats:
        if self._quantised[f"{name}.weight"] and not self.exact:
            values = quantise(values).values
        return matmul(self._weights[f"{name}.weight"], values)

    def _feed_forward(self, layer: str, values: Floats) -> Floats:
        gate, up = self._product(f"{layer}.ffn_gate", values), self._product(f"{layer}.ffn_up", values)
        return self._product(f"{layer}.ffn_down", gated(gate, up))

    def _attention(self, layer: str, values: Floats) -> Floats:
        query = self._rotated(self._heads(f"{layer}.attn_q", values))
        keys = self._cached(self._rotated(self._heads(f"{layer}.attn_k", values)))
        cached_values = self._cached(self._heads(f"{layer}.attn_v", values))
        out = np.empty_like(query)
        for token, head in np.ndindex(query.shape[:2]):
            kv_head = head // (self.num_heads // self.num_kv_heads)
            seen = slice(0, token + 1)
            key, value = keys[seen, kv_head], cached_values[seen, kv_head]
            out[token, head] = attend(query[token, head], key, value, self.head_dim**-0.5)
        return self._product(f"{layer}.attn_output", out.reshape(len(out), -1))

    def _heads(self, name: str, values: Floats) -> Floats:
        return self._product(name, values).reshape(len(values), -1, self.head_dim)

    def _rotated(self, heads: Floats) -> Floats:
        factors = self._weights.get("rope_freqs.weight", np.ones(1))
        positions = np.arange(len(heads))
        return rotate_pairs(heads, positions, self.rope_dimensions, self.rope_base, factors * self.rope_scale)

    def _cached(self, heads: Floats) -> Floats:
        return heads if self.exact else heads.astype(np.float16).astype(np.float64)
