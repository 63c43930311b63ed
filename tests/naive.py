"""The slow twins: every fast kernel again, in NumPy and float64, as its definition says it.

Tests of worker/kernels compare with these; naive_models.py makes whole models of them. Invariant: nothing here shares
code with the kernels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

BLOCK = 32  # activations that share a scale
PAGE = 16  # positions of a cache block


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
    """(rows, columns), (tokens, columns) -> (tokens, rows). Not by BLAS, whose threads would fight for the cores."""
    return np.einsum("tk,rk->tr", activations.astype(np.float64), weights.astype(np.float64))


def rms_norm(values: NDArray[np.floating], weight: NDArray[np.floating], epsilon: float) -> Floats:
    values = values.astype(np.float64)
    return values / np.sqrt(np.mean(values**2, axis=-1, keepdims=True) + epsilon) * weight


def rope_frequencies(dimensions: int, base: float) -> Floats:
    """(dimensions / 2,) radians from one position to the next."""
    return base ** (-np.arange(0, dimensions, 2) / dimensions)


def rotate_pairs(heads: NDArray[np.floating], positions: NDArray[np.integer], frequencies: Floats) -> Floats:
    """RoPE of neighbours (2i, 2i + 1), as many pairs as there are frequencies.

    heads: (tokens, heads, head_dim); positions: (tokens,).
    """
    pairs = np.arange(len(frequencies))
    return _rotate(heads, positions, frequencies, 2 * pairs, 2 * pairs + 1)


def rotate_halves(heads: NDArray[np.floating], positions: NDArray[np.integer], frequencies: Floats) -> Floats:
    """RoPE of (i, i + half) among the values that are rotated."""
    pairs = np.arange(len(frequencies))
    return _rotate(heads, positions, frequencies, pairs, pairs + len(pairs))


def _rotate(
    heads: NDArray[np.floating], positions: NDArray[np.integer], frequencies: Floats, real: Indices, imaginary: Indices
) -> Floats:
    turns = np.exp(1j * positions[:, None] * frequencies)[:, None, :]  # (tokens, 1, pairs)
    turned = (heads[..., real] + 1j * heads[..., imaginary]) * turns
    out = heads.astype(np.float64)
    out[..., real], out[..., imaginary] = turned.real, turned.imag
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
