"""Writing to the cache: keys and values go to their place, and to no other, in every type."""

import numpy as np
import pytest

from tests import naive
from tests.worker.kernels.callers import run
from worker.kernels.cache_pages import KEY_WRITERS, VALUE_CLEARERS, VALUE_WRITERS, keep_finite
from worker.kernels.cache_types import CACHE_TYPES

HEAD_DIM = 64
NUMBERS = {"f32": np.float32, "f16": np.float16}


def page_of(name: str) -> np.ndarray:
    return np.full(CACHE_TYPES[name].page_bytes(HEAD_DIM), 0x55, np.uint8)


@pytest.mark.parametrize("name", CACHE_TYPES)
def test_a_page_takes_the_bytes_that_its_type_says(name):
    per_value = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32, "q4_0": 18 / 32}[name]
    assert CACHE_TYPES[name].page_bytes(HEAD_DIM) == 16 * HEAD_DIM * per_value


@pytest.mark.parametrize("writers", [KEY_WRITERS, VALUE_WRITERS], ids=["keys", "values"])
@pytest.mark.parametrize("name", CACHE_TYPES)
def test_positions_share_no_byte(name, writers):
    rng = np.random.default_rng(0)
    alone = []
    for lane in range(16):
        page = page_of(name)
        run(writers[name], rng.uniform(1, 2, HEAD_DIM).astype(np.float32), page, lane, HEAD_DIM)
        other = page_of(name) ^ 0xFF
        run(writers[name], rng.uniform(1, 2, HEAD_DIM).astype(np.float32), other, lane, HEAD_DIM)
        alone.append((page != 0x55) | (other != 0xAA))
    assert (np.sum(alone, axis=0) == 1).all()


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_rounded_to_the_nearest(name):
    row = np.random.default_rng(1).standard_normal(HEAD_DIM).astype(np.float32) * 100
    keys, values = page_of(name), page_of(name)
    run(KEY_WRITERS[name], row, keys, 5, HEAD_DIM)
    run(VALUE_WRITERS[name], row, values, 5, HEAD_DIM)
    np.testing.assert_array_equal(keys.view(NUMBERS[name]).reshape(HEAD_DIM, 16)[:, 5], row.astype(NUMBERS[name]))
    in_columns = values.view(NUMBERS[name]).reshape(HEAD_DIM // 16, 16, 16)
    np.testing.assert_array_equal(in_columns[:, 5].ravel(), row.astype(NUMBERS[name]))


@pytest.mark.parametrize("value", [1.0, 1 + 2**-8, 1 + 3 * 2**-8, 3.0e38, -1e-40, np.inf, np.nan])
def test_bf16_is_rounded_to_nearest_even_and_keeps_infinity_and_nan(value):
    row, page = np.full(HEAD_DIM, value, np.float32), page_of("bf16")
    run(VALUE_WRITERS["bf16"], row, page, 0, HEAD_DIM)
    stored = (page.view(np.uint16).reshape(-1, 16, 16)[:, 0].astype(np.uint32) << 16).view(np.float32)
    if np.isfinite(value):
        np.testing.assert_array_equal(stored.ravel(), naive.through_cache("bf16", row))
    else:
        np.testing.assert_array_equal(stored.ravel(), row)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e6])
def test_f16_holds_the_largest_number_instead_of_infinity(value):
    page = page_of("f16")
    run(VALUE_WRITERS["f16"], np.full(HEAD_DIM, value, np.float32), page, 0, HEAD_DIM)
    assert (page.view(np.float16).reshape(-1, 16, 16)[:, 0] == np.copysign(65504, value)).all()


def test_nothing_but_zeros_has_codes_of_zero():
    for name in ("q8_0", "q4_0"):
        page = page_of(name)
        run(KEY_WRITERS[name], np.zeros(HEAD_DIM, np.float32), page, 3, HEAD_DIM)
        scales = page.reshape(HEAD_DIM // 32, -1)[:, :32].copy().view(np.float16)
        assert (scales[:, 3] == 0).all()


@pytest.mark.parametrize("name", CACHE_TYPES)
@pytest.mark.parametrize("lane", [0, 1, 15, 16])
def test_clearing_makes_what_follows_zero_and_keeps_what_is_before(name, lane):
    page = np.full(CACHE_TYPES[name].page_bytes(HEAD_DIM), 0xFF, np.uint8)  # NaN, as a number or a scale
    rows = np.random.default_rng(2).standard_normal((lane, HEAD_DIM)).astype(np.float32)
    for position, row in enumerate(rows):
        run(VALUE_WRITERS[name], row, page, position, HEAD_DIM)
    before = page.copy()
    run(VALUE_CLEARERS[name], page, lane, HEAD_DIM)
    if CACHE_TYPES[name].number:
        places = page.reshape(HEAD_DIM // 16, 16, -1)
        kept = before.reshape(HEAD_DIM // 16, 16, -1)
        assert not places[:, lane:].any()
        np.testing.assert_array_equal(places[:, :lane], kept[:, :lane])
    else:
        groups, kept = page.reshape(HEAD_DIM // 32, -1), before.reshape(HEAD_DIM // 32, -1)
        assert not groups[:, 2 * lane : 32].any()
        np.testing.assert_array_equal(groups[:, : 2 * lane], kept[:, : 2 * lane])
        np.testing.assert_array_equal(groups[:, 32:], kept[:, 32:])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 37, 63])
def test_a_value_that_is_not_finite_shows_in_its_key_instead(wrong, place):
    key, value = np.ones((2, HEAD_DIM), np.float32)
    value[place] = wrong
    run(keep_finite, key, value, HEAD_DIM)
    assert np.isnan(key).all()
    np.testing.assert_array_equal(value, np.arange(HEAD_DIM) != place)


def test_finite_values_leave_their_key_alone():
    key, value = np.random.default_rng(3).standard_normal((2, HEAD_DIM)).astype(np.float32) * np.float32(1e38)
    kept = key.copy(), value.copy()
    run(keep_finite, key, value, HEAD_DIM)
    np.testing.assert_array_equal((key, value), kept)
