import numpy as np
import pytest

from worker.sampling.ranking import KERNELS, NUM_BUCKETS, divide_at, rank_descending, rank_typical, reach

for compiled in KERNELS:
    compiled.compile()


def logits_of(seed: int, size: int) -> np.ndarray:
    """With equal ones, both zeros and very small and large ones among them."""
    random = np.random.default_rng(seed)
    logits = random.choice([random.normal(0, 3, size), np.round(random.normal(0, 3, size))]).astype(np.float32)
    logits[random.integers(0, size, 4)] = [0.0, -0.0, 1e-42, -3e38]
    return logits


def descending_keys(logits: np.ndarray) -> np.ndarray:
    keys = np.zeros(logits.size, np.int64)
    rank_descending(logits.view(np.int32), logits.size, keys)
    return keys


def reached(keys: np.ndarray, weights: np.ndarray, target: float) -> int:
    return reach(keys, weights, keys.size, target, np.zeros(keys.size, np.int32), np.zeros(NUM_BUCKETS))


@pytest.mark.parametrize("seed", range(10))
def test_keys_put_logits_into_descending_order_and_leave_equals_as_they_stand(seed):
    logits = logits_of(seed, 1000)
    assert descending_keys(logits).argsort(kind="stable").tolist() == sorted(range(1000), key=lambda i: -logits[i])


@pytest.mark.parametrize("seed", range(5))
def test_typical_keys_go_by_the_distance_from_the_entropy_and_then_by_the_logit(seed):
    logits, certain, entropy = logits_of(seed, 500), np.float32(4.0), np.float32(3.5)
    keys, distances = np.zeros(500, np.int64), np.zeros(500, np.int32)
    rank_typical(logits, logits.view(np.int32), 500, certain, entropy, distances, keys)
    away = np.abs(np.minimum(certain - logits, np.float32(87.33655)) - entropy)
    assert keys.argsort(kind="stable").tolist() == sorted(range(500), key=lambda i: (away[i], -logits[i]))


@pytest.mark.parametrize("size", [1, 2, 63, 1000, 5000])
@pytest.mark.parametrize("seed", range(4))
def test_a_share_of_the_weight_is_reached_where_a_sorted_list_reaches_it(seed, size):
    random = np.random.default_rng(seed)
    logits = logits_of(seed, max(size, 4))
    keys = descending_keys(logits)
    weights = random.integers(0, 5, keys.size).astype(np.float32)  # sums of whole numbers are exact
    weights[random.integers(0, keys.size)] = 1
    order = keys.argsort(kind="stable")
    sums = np.cumsum(weights[order], dtype=np.float64)
    for target in (0.0, 0.5, 1.0, sums[-1] / 3, sums[-1] - 1, sums[-1]):
        place = int(sums.searchsorted(target)) if target > 0 else int(sums.searchsorted(0, "right"))
        assert reached(keys, weights, target) == order[place]
    assert reached(keys, weights, sums[-1] + 1) == order[np.flatnonzero(weights[order])[-1]]


@pytest.mark.parametrize("seed", range(5))
def test_candidates_are_divided_at_one_of_them_and_stay_as_they_stand(seed):
    logits = logits_of(seed, 300)
    keys = descending_keys(logits)
    order = keys.argsort(kind="stable").tolist()
    for rank in (0, 7, 299):
        for keeps_last, expected in ((False, order[: rank + 1]), (True, order[rank + 1 :])):
            parts = keys.copy(), logits.copy(), np.arange(300, dtype=np.int32)
            num = divide_at(parts[0], 300, order[rank], keeps_last, parts[1], parts[2])
            assert parts[2][:num].tolist() == sorted(expected)
            assert (parts[0][:num] == keys[sorted(expected)]).all()
            assert (parts[1][:num] == logits[sorted(expected)]).all()
