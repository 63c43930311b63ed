"""Rotary position embedding as a table of cosines and sines, so that kernels only multiply.

The decoder makes one table per rotary base of the model. Follows the definition of YaRN (Peng et al., 2023,
arXiv:2309.00071) in the form llama.cpp gives it, of which "linear" and "none" are special cases.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worker.config import RopeConfig


@dataclass(frozen=True)
class Rotation:
    """How positions turn into angles."""

    dimensions: int  # of a head, rotated in pairs
    base: float
    scale: float = 1.0  # angles are multiplied by it: 1 / 4 to stretch the context four times
    original_context: int = 0  # positions the model was trained for before it was stretched
    extrapolation: float = 0.0  # YaRN's mix: 0 interpolates all frequencies, 1 leaves the high ones alone
    attention_factor: float = 1.0  # of all cosines and sines
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    goes_beyond: bool = False  # positions from original_context on are to be used: some files have factors for that


def retold(rotation: Rotation, told: RopeConfig) -> Rotation:
    """The rotation with what is told in place of what the file says, by llama.cpp's rules.

    A scaling of "none" takes the scale away, also a told one. YaRN's attention factor follows from the scale, so that
    a told one counts only where nothing is extrapolated.
    """
    extrapolation = told.extrapolation
    if extrapolation is None:
        extrapolation = rotation.extrapolation if told.scaling is None else float(told.scaling == "yarn")
    attention_factor = told.attention_factor if told.attention_factor is not None and not extrapolation else 1.0
    return replace(
        rotation,
        base=_first(told.base, rotation.base),
        scale=1.0 if told.scaling == "none" else _first(told.scale, rotation.scale),
        original_context=int(_first(told.original_context, rotation.original_context)),
        extrapolation=extrapolation,
        attention_factor=rotation.attention_factor * attention_factor,
        beta_fast=_first(told.beta_fast, rotation.beta_fast),
        beta_slow=_first(told.beta_slow, rotation.beta_slow),
    )


def _first(told: float | None, known: float) -> float:
    return known if told is None else told


def rotation_table(
    rotation: Rotation, num_positions: int, frequency_factors: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """(positions, dimensions / 2, 2) cosines and sines; frequency_factors (dimensions / 2,) divide the frequencies."""
    pairs = np.arange(rotation.dimensions // 2, dtype=np.float64)
    frequencies = rotation.base ** (-2 * pairs / rotation.dimensions)
    if frequency_factors is not None:
        frequencies /= frequency_factors
    interpolated, magnitude = frequencies * rotation.scale, rotation.attention_factor
    if rotation.extrapolation:
        keep = _extrapolated_share(rotation, pairs) * rotation.extrapolation
        interpolated = interpolated * (1 - keep) + frequencies * keep
        magnitude *= max(1.0, 1 + 0.1 * np.log(1 / rotation.scale))
    angles = np.arange(num_positions)[:, None] * interpolated
    return (np.stack([np.cos(angles), np.sin(angles)], axis=-1) * magnitude).astype(np.float32)


def _extrapolated_share(rotation: Rotation, pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 for pairs that turn fast, 0 for slow ones, a ramp between: see "NTK-by-parts" in the paper."""

    def pair_turning(times: float) -> float:
        """The pair that makes so many turns over the original context."""
        with np.errstate(divide="ignore"):  # by no turns, or by a base of 1: that pair is infinitely far
            turns = np.float64(rotation.original_context) / (times * 2 * np.pi)
            return float(rotation.dimensions * np.log(turns) / (2 * np.log(rotation.base)))

    low = max(0.0, np.floor(pair_turning(rotation.beta_fast)))
    high = min(rotation.dimensions - 1.0, np.ceil(pair_turning(rotation.beta_slow)))
    share: NDArray[np.float64] = 1 - np.clip((pairs - low) / max(0.001, high - low), 0, 1)
    return share
