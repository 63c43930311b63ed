"""The kernels over a vocabulary, each beside NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.sampling.candidates import Candidates
from worker.sampling.vocabulary import exponentials, repeat_lengths


def random_logits(seed: int, size: int, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, size).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 3.0]),
)  # fmt: skip
def test_the_largest_are_found_in_order_and_ties_go_to_the_lower_index(size, num, seed, scale):
    values = np.round(random_logits(seed, size, scale), 1)
    num = min(num, size)
    candidates = Candidates(size)
    assert candidates.start(values)
    candidates.keep_largest(num)
    candidates.settle()
    order = np.argsort(-values, kind="stable")[:num]
    assert candidates.ids[: candidates.num].tolist() == order.tolist()
    assert candidates.logits.tolist() == values[order].tolist()
    assert candidates.start(values)
    candidates.keep_best()
    assert candidates.token(0) == order[0]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700), st.integers(0, 2**32 - 1), st.floats(-4, 4))
def test_what_is_kept_from_a_limit_keeps_its_order(size, seed, lowest):
    values = random_logits(seed, size)
    candidates = Candidates(size)
    candidates.start(values)
    candidates.keep_from(lowest)
    expected = np.flatnonzero(values >= np.float32(lowest))
    assert candidates.ids[: candidates.num].tolist() == expected.tolist()


@pytest.mark.parametrize("size", [1, 15, 16, 17, 64, 65, 5003])
def test_exponentials_are_exact_to_a_few_units_and_vanish_far_below(size):
    values = np.linspace(-86, 0, size + 3).astype(np.float32)
    values[:3] = [-88, -1000, -np.inf]
    padded, out, sums = np.full(size + 64, 7, np.float32), np.full(size + 64, 9, np.float32), np.zeros(size // 64 + 2)
    padded[: values.size] = values
    total = exponentials(padded, out, sums, values.size, np.float32(0))
    exact = np.exp(values.astype(np.float64))
    assert np.allclose(out[3 : values.size], exact[3:], rtol=3e-7, atol=0)
    assert out[:3].tolist() == [0, 0, 0]
    assert total == pytest.approx(exact.sum(), rel=1e-6)
    assert sums[0] == pytest.approx(exact[:64].sum(), rel=1e-6) and sums.sum() == pytest.approx(total)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(0, 40))
def test_lengths_of_repetitions_are_those_counted_one_by_one(tokens, limit):
    lengths = np.full(len(tokens), -1, np.int32)
    repeat_lengths(np.array(tokens, np.int32), limit, lengths)
    for end in range(len(tokens) - 1):
        length = 0
        while length < limit and length <= end and tokens[end - length] == tokens[-1 - length]:
            length += 1
        assert lengths[end] == length
    assert lengths[-1] == 0


@pytest.mark.parametrize("lowest", [-np.inf, 1.90002])
@pytest.mark.parametrize("num_divisions", [1, 2])
def test_an_order_outlasts_a_division_that_makes_equals(lowest, num_divisions):
    values = np.float32(1.9) + np.arange(2000, dtype=np.float32) * np.float32(2**-23)
    np.random.default_rng(1).shuffle(values)
    candidates = Candidates(2000)
    candidates.start(values)
    if lowest > 0:
        candidates.keep_from(lowest)
    candidates.sort()
    for _ in range(num_divisions):
        candidates.divide(1.8)
    assert np.unique(candidates.logits).size < candidates.num
    candidates.settle()
    order = np.argsort(-values, kind="stable")
    assert candidates.ids.tolist() == order[values[order] >= np.float32(lowest)].tolist()
