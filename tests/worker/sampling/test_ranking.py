import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.sampling.ranking import KERNELS, NUM_BUCKETS, descending, rank_typical, reach
from worker.sampling.vocabulary import GROUP

for compiled in KERNELS:
    compiled.compile()


def numbers_of(seed: int, size: int) -> np.ndarray:
    """With equal ones, both zeros and very small and large ones among them."""
    random = np.random.default_rng(seed)
    numbers = random.choice([random.normal(0, 3, size), np.round(random.normal(0, 3, size))]).astype(np.float32)
    numbers[random.integers(0, size, 4)] = [0.0, -0.0, 1e-42, -3e38]
    return numbers


def ordered(keys: np.ndarray, logits: np.ndarray) -> list[int]:
    return sorted(range(keys.size), key=lambda i: (-keys[i], -logits[i]))


def padded(numbers: np.ndarray) -> np.ndarray:
    return np.concatenate([numbers, np.full(-numbers.size % GROUP, 99, np.float32)])


def reached(keys: np.ndarray, logits: np.ndarray, weights: np.ndarray, target: float, least: float = -1.0) -> int:
    num = keys.size
    parts = np.add.reduceat(weights, np.arange(0, num, GROUP), dtype=np.float64)
    numbers = padded(keys)
    scratch = np.zeros(numbers.size, np.int32), np.zeros(NUM_BUCKETS)
    others = numbers if logits is keys else padded(logits)
    return reach(numbers, keys.max(), others, weights, parts, num, target, least, *scratch)


@settings(deadline=None)
@given(st.lists(st.sampled_from([-np.inf, -3.5, -0.0, 0.0, 1e-30, 2.0, 1e30]), max_size=50))
def test_sorting_keeps_equals_as_they_stand(values):
    array = np.array(values, np.float32)
    assert descending(array).tolist() == np.argsort(-array, kind="stable").tolist()


@pytest.mark.parametrize("size", [4, 16, 500])
@pytest.mark.parametrize("seed", range(5))
def test_typical_keys_go_by_the_distance_from_the_entropy(seed, size):
    logits, certain, entropy = numbers_of(seed, size), np.float32(4.0), np.float32(3.5)
    keys = np.zeros(padded(logits).size, np.float32)
    rank_typical(padded(logits), size, certain, entropy, keys)
    away = np.abs(np.minimum(certain - logits, np.float32(87.33655)) - entropy)
    assert (keys[:size] == -away).all()


@pytest.mark.parametrize("has_keys", [False, True])
@pytest.mark.parametrize("size", [4, 63, 64, 1000, 5000])
@pytest.mark.parametrize("seed", range(4))
def test_a_share_of_the_weight_is_reached_where_a_sorted_list_reaches_it(seed, size, has_keys):
    random = np.random.default_rng(seed)
    logits = numbers_of(seed, size)
    keys = np.round(numbers_of(seed + 9, size)) if has_keys else logits
    weights = random.integers(0, 5, size).astype(np.float32)  # sums of whole numbers are exact
    weights[random.integers(0, size)] = 1
    order = ordered(keys, logits)
    sums = np.cumsum(weights[order], dtype=np.float64)
    for target in (0.0, 0.5, 1.0, sums[-1] / 3, sums[-1] - 1, sums[-1]):
        place = int(sums.searchsorted(target)) if target > 0 else int(sums.searchsorted(0, "right"))
        assert reached(keys, logits, weights, target) == order[place]
    assert reached(keys, logits, weights, sums[-1] + 1) == order[np.flatnonzero(weights[order])[-1]]


@pytest.mark.parametrize("share", [0.1, 0.9, 0.999])
def test_groups_that_cannot_matter_need_not_be_looked_at(share):
    logits = np.random.default_rng(1).normal(0, 4, 5000).astype(np.float32)
    weights = np.exp(logits - logits.max())
    total = float(weights.sum(dtype=np.float64))
    least = 0.5 * (1 - share) * total / weights.size
    assert reached(logits, logits, weights, share * total, least) == reached(logits, logits, weights, share * total)
