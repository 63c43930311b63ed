import numpy as np
import pytest

from worker.sampling.thinning import KERNELS, collect, divide_at
from worker.sampling.vocabulary import GROUP

for compiled in KERNELS:
    compiled.compile()


def numbers_of(seed: int, size: int) -> np.ndarray:
    """With many equal ones, padded to whole groups with what must never be kept."""
    numbers = np.round(np.random.default_rng(seed).normal(0, 3, size)).astype(np.float32)
    return np.concatenate([numbers, np.full(-size % GROUP, -np.inf, np.float32)])


@pytest.mark.parametrize("size", [1, 15, 16, 64, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_above_a_limit_is_collected_and_of_what_equals_it_the_first(seed, size):
    values = numbers_of(seed, size)
    peaks = values.reshape(-1, GROUP).max(axis=1)
    picked, ids = np.zeros(values.size, np.float32), np.zeros(values.size, np.int32)
    for lowest in (np.float32(-20), values[size // 2], np.float32(20)):
        for last in (-1, 0, size // 2, size):
            num = collect(values, peaks, lowest, last, picked, ids)
            expected = [i for i in range(size) if values[i] > lowest or (values[i] == lowest and i <= last)]
            assert ids[:num].tolist() == expected
            assert (picked[:num] == values[expected]).all()


@pytest.mark.parametrize("has_keys", [False, True])
@pytest.mark.parametrize("size", [1, 16, 300])
@pytest.mark.parametrize("seed", range(5))
def test_candidates_are_divided_at_one_of_them_and_stay_as_they_stand(seed, size, has_keys):
    logits = numbers_of(seed, size)
    keys = numbers_of(seed + 9, size) if has_keys else logits
    order = sorted(range(size), key=lambda i: (-keys[i], -logits[i]))
    places = np.zeros(logits.size, np.int32)
    for rank in {0, size // 50, size // 2, size - 1}:
        for keeps_last, expected in ((False, order[: rank + 1]), (True, order[rank:])):
            parts = keys.copy(), logits.copy(), np.arange(logits.size, dtype=np.int32)
            num = divide_at(*parts, size, order[rank], keeps_last, *parts, places)
            assert parts[2][:num].tolist() == sorted(expected)
            assert (parts[0][:num] == keys[sorted(expected)]).all()
            assert (parts[1][:num] == logits[sorted(expected)]).all()
