"""Angles and magnitudes of the rotary table, and what replaces the file's."""

from dataclasses import replace

import numpy as np
import pytest

from worker.config import RopeConfig
from worker.model.rotation import Rotation, retold, rotation_table

PLAIN = Rotation(64, 10000.0, original_context=2048)
PAIRS = np.arange(32)


def turned(rotation: Rotation, position: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """(magnitudes, angles modulo a turn) of all pairs at one position."""
    cosines, sines = rotation_table(rotation, position + 1)[position].T.astype(np.float64)
    return np.hypot(cosines, sines), np.arctan2(sines, cosines)


def same_angles(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.allclose(np.exp(1j * found), np.exp(1j * expected), atol=1e-5))


def test_pairs_turn_by_powers_of_the_base():
    magnitudes, angles = turned(PLAIN)
    np.testing.assert_allclose(magnitudes, 1, rtol=1e-6)
    assert same_angles(angles, 100 * 10000.0 ** (-PAIRS / 32))


def test_a_scale_multiplies_all_angles():
    assert same_angles(turned(replace(PLAIN, scale=0.25))[1], turned(PLAIN, 25)[1])


def test_yarn_leaves_fast_pairs_alone_stretches_slow_ones_and_lengthens_all():
    magnitudes, angles = turned(replace(PLAIN, scale=0.25, extrapolation=1.0))
    plain, stretched = turned(PLAIN)[1], turned(replace(PLAIN, scale=0.25))[1]
    # 2048 positions are 32 turns of pair 8.07 and one turn of pair 20.1: the ramp goes from 8 to 21.
    assert same_angles(angles[:9], plain[:9]) and same_angles(angles[21:], stretched[21:])
    assert not same_angles(angles[9:21], plain[9:21]) and not same_angles(angles[9:21], stretched[9:21])
    np.testing.assert_allclose(magnitudes, 1 + 0.1 * np.log(4), rtol=1e-6)


def test_yarn_that_shrinks_does_not_shorten():
    np.testing.assert_allclose(turned(replace(PLAIN, scale=2.0, extrapolation=1.0))[0], 1, rtol=1e-6)


def test_yarn_leaves_all_pairs_alone_if_none_turns_fast_enough_to_begin_the_ramp():
    for never in (replace(PLAIN, beta_fast=0.0), replace(PLAIN, base=1.0)):
        found = turned(replace(never, scale=0.25, extrapolation=1.0))[1]
        assert same_angles(found, turned(never)[1])


def test_yarn_ends_its_ramp_at_the_last_dimension_if_no_pair_is_slow_enough():
    yarn = replace(PLAIN, scale=0.25, extrapolation=1.0)
    slowest = turned(replace(yarn, beta_slow=1e-9))[1]  # far beyond the last
    assert same_angles(turned(replace(yarn, beta_slow=0.0))[1], slowest)


def test_what_is_not_told_stays_as_the_file_has_it():
    stretched = replace(PLAIN, scale=0.5, extrapolation=1.0, attention_factor=1.2, beta_fast=16.0, beta_slow=2.0)
    assert retold(stretched, RopeConfig()) == stretched


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (RopeConfig("none"), {"scale": 1.0, "extrapolation": 0.0}),
        (RopeConfig("none", scale=0.125), {"scale": 1.0, "extrapolation": 0.0}),
        (RopeConfig("linear"), {"extrapolation": 0.0}),
        (RopeConfig("linear", scale=0.125), {"scale": 0.125, "extrapolation": 0.0}),
        (RopeConfig("yarn", extrapolation=0.3), {"extrapolation": 0.3}),
        (RopeConfig(scale=0.125), {"scale": 0.125}),
        (RopeConfig(base=5e5, original_context=99), {"base": 5e5, "original_context": 99}),
        (RopeConfig(beta_fast=8.0, beta_slow=4.0), {"beta_fast": 8.0, "beta_slow": 4.0}),
        (RopeConfig(attention_factor=0.5), {}),  # it follows from the scale where pairs are extrapolated
        (RopeConfig("linear", attention_factor=0.5), {"extrapolation": 0.0, "attention_factor": 0.6}),
    ],
)
def test_what_is_told_replaces_what_a_yarn_file_says(told, expected):
    file = replace(PLAIN, scale=0.5, extrapolation=1.0, attention_factor=1.2)
    assert retold(file, told) == replace(file, **expected)


def test_yarn_told_to_a_plain_file_extrapolates():
    assert retold(PLAIN, RopeConfig("yarn", scale=0.25)) == replace(PLAIN, scale=0.25, extrapolation=1.0)
