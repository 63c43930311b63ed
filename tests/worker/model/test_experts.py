"""Which experts a token goes through, with what weights, and where its rows lie."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.naive import softmax
from tests.worker.kernels.callers import run
from worker.kernels.simd import LANES
from worker.model.experts import add_experts, route, routes_bytes

SPARE = 5  # rows that there is room for and that are not used
GUARD = 0x5A


@dataclass
class Routes:
    """What `route` wrote, as arrays."""

    experts: NDArray[np.int32]  # (tokens, used)
    weights: NDArray[np.float32]
    rows: NDArray[np.int32]
    starts: NDArray[np.int32]
    memory: NDArray[np.uint8]
    max_rows: int


def routed(scores: NDArray[np.float32], num_used: int, scale: float = 1.0) -> Routes:
    """scores: (tokens, experts), given to the kernel in rows of whole vectors that are filled up with high scores."""
    num_tokens, num_experts = scores.shape
    padded = np.full((num_tokens, -(-num_experts // LANES) * LANES), 1e9, np.float32)
    padded[:, :num_experts] = scores
    max_rows = num_tokens * num_used + SPARE
    size = routes_bytes(max_rows, num_experts, num_used)
    memory = np.full(size + 64, GUARD, np.uint8)
    run(route, padded, padded.strides[0], num_tokens, num_experts, num_used, memory, max_rows, np.float32(scale))
    assert (memory[size:] == GUARD).all()
    words = memory[:size].view(np.int32)
    num_rows, shape = num_tokens * num_used, (num_tokens, num_used)
    return Routes(
        words[:num_rows].reshape(shape),
        words[max_rows : max_rows + num_rows].view(np.float32).reshape(shape),
        words[2 * max_rows : 2 * max_rows + num_rows].reshape(shape),
        words[3 * max_rows : 3 * max_rows + num_experts + 1],
        memory,
        max_rows,
    )


def random_scores(num_tokens: int, num_experts: int) -> NDArray[np.float32]:
    return np.random.default_rng(num_experts).standard_normal((num_tokens, num_experts)).astype(np.float32) * 3


SIZES = [(1, 8, 2), (7, 8, 8), (40, 5, 1), (3, 128, 8), (9, 33, 20), (2, 1, 1)]


@pytest.mark.parametrize(("num_tokens", "num_experts", "num_used"), SIZES)
def test_a_tokens_experts_are_those_with_the_highest_scores_best_first(num_tokens, num_experts, num_used):
    scores = random_scores(num_tokens, num_experts)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :num_used]
    np.testing.assert_array_equal(routed(scores, num_used).experts, expected)


def test_of_experts_with_equal_scores_the_one_with_the_lower_number_comes_first():
    scores = np.array([[1, 5, 5, 1, 5, 0]], np.float32)
    assert routed(scores, 4).experts.tolist() == [[1, 2, 4, 0]]
    assert routed(np.zeros((1, 6), np.float32), 3).experts.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(("num_tokens", "num_experts", "num_used"), SIZES)
def test_weights_are_the_probabilities_of_the_chosen_made_to_add_up_to_the_scale(num_tokens, num_experts, num_used):
    scores = random_scores(num_tokens, num_experts)
    found = routed(scores, num_used, scale=2.5)
    shares = np.take_along_axis(softmax(scores.astype(np.float64)), found.experts, axis=1)
    np.testing.assert_allclose(found.weights, 2.5 * shares / shares.sum(axis=1, keepdims=True), rtol=1e-5)


def test_scores_far_apart_leave_a_weight_of_nothing_and_no_nan():
    found = routed(np.array([[-1e30, 700, 3e38, -700]], np.float32), 4)
    assert found.experts.tolist() == [[2, 1, 3, 0]]
    assert found.weights.tolist() == [[1, 0, 0, 0]]


def test_scores_that_are_no_numbers_still_choose_experts_that_exist():
    found = routed(np.full((2, 6), np.nan, np.float32), 3)
    assert all(sorted(set(chosen)) == sorted(chosen) for chosen in found.experts.tolist())
    assert ((found.experts >= 0) & (found.experts < 6)).all() and np.isnan(found.weights).all()


@pytest.mark.parametrize(("num_tokens", "num_experts", "num_used"), SIZES)
def test_each_experts_rows_lie_together_in_the_order_of_tokens(num_tokens, num_experts, num_used):
    found = routed(random_scores(num_tokens, num_experts), num_used)
    by_expert = np.argsort(found.experts.reshape(-1), kind="stable")
    np.testing.assert_array_equal(found.rows.reshape(-1)[by_expert], np.arange(num_tokens * num_used))
    counts = np.bincount(found.experts.reshape(-1), minlength=num_experts)
    np.testing.assert_array_equal(found.starts, np.concatenate([[0], np.cumsum(counts)]))


def test_a_token_gets_the_weighted_outputs_of_its_experts_in_the_columns_asked_for():
    num_tokens, num_used, width = 5, 3, 64
    found = routed(random_scores(num_tokens, 8), num_used)
    rng = np.random.default_rng(0)
    outputs = rng.standard_normal((num_tokens * num_used, width)).astype(np.float32)
    before = rng.standard_normal((num_tokens, width)).astype(np.float32)
    out = before.copy()
    run(add_experts, outputs, found.memory, found.max_rows, num_tokens, num_used, out, width, 16, 48)
    mixed = np.einsum("tr,trc->tc", found.weights, outputs[found.rows])
    np.testing.assert_allclose(out[:, 16:48], (before + mixed)[:, 16:48], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(out[:, :16], before[:, :16])
    np.testing.assert_array_equal(out[:, 48:], before[:, 48:])
