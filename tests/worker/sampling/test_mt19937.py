import numpy as np
import pytest

from worker.sampling.mt19937 import Generator


def words(seed: int, num: int) -> list[int]:
    return np.random.RandomState(seed).randint(0, 2**32, num, np.uint64).tolist()


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31, 2**32 - 1])
def test_two_words_make_a_double(seed):
    generator, drawn = Generator(seed, 2), words(seed, 2000)
    for low, high in zip(drawn[::2], drawn[1::2], strict=True):
        assert generator.draw() == (float(low) + float(high) * 2.0**32) / 2.0**64


@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1])
def test_one_word_makes_a_float_below_1(seed):
    generator = Generator(seed, 1)
    for word in words(seed, 1000):
        assert generator.draw() == min(float(np.float32(word) / np.float32(2**32)), 1 - 2**-24)


def test_seed_42_draws_what_libstdcxx_draws():
    generator = Generator(42, 2)
    assert [generator.draw(), generator.draw()] == [0.79654298428784598, 0.18343478789336848]


@pytest.mark.parametrize("words_per_draw", [1, 2])
@pytest.mark.parametrize("num_draws", [0, 1, 311, 312, 313, 5000])
def test_a_generator_can_be_started_after_some_draws(num_draws, words_per_draw):
    first = Generator(7, words_per_draw)
    for _ in range(num_draws):
        first.draw()
    second = Generator(7, words_per_draw, num_draws)
    assert [first.draw() for _ in range(5)] == [second.draw() for _ in range(5)]
    assert first.num_draws == second.num_draws == num_draws + 5
