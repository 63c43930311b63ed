import random
from itertools import pairwise

import pytest

from worker.drafts import Drafter
from worker.sequence import Sequence


def sequence_of(*tokens: int, num_completion: int = 0) -> Sequence:
    split = len(tokens) - num_completion
    return Sequence(tokens[:split], tokens[split:], 10_000, shares_prefix=True)


def extend(sequence: Sequence, *tokens: int) -> None:
    for token in tokens:
        sequence.append(token)


def eager() -> Drafter:
    """One whose guesses have been right."""
    drafter = Drafter()
    for _ in range(10):
        drafter.observe(sequence_of(1), 1, 1)
    return drafter


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ((1, 2, 3, 4, 5, 6, 1, 2, 3), [4, 5, 6, 1]),
        ((1, 2, 3, 9, 9, 1, 2, 3, 8, 7, 1, 2, 3), [8, 7, 1, 2]),  # the latest of several
        ((9, 2, 3, 4, 8, 2, 3), []),  # two tokens are too little
        ((5, 5, 5, 5), [5, 5, 5, 5]),
        ((7, 1, 2, 1, 2, 1), [2, 1, 2, 1]),  # a period goes on
        ((1, 2, 3), []),
        ((1,), []),
    ],
)
def test_what_followed_before_is_expected_again(tokens, expected):
    assert eager().propose(sequence_of(*tokens), 4).tolist() == expected


def test_no_more_is_guessed_than_asked_for():
    sequence = sequence_of(*range(20), *range(5))
    assert eager().propose(sequence, 2).tolist() == [5, 6]
    assert eager().propose(sequence, 0).size == eager().propose(sequence, -3).size == 0


def test_a_quotation_is_followed_where_it_was_found_though_its_words_stand_elsewhere_too():
    drafter, sequence = eager(), sequence_of(1, 2, 3, 4, 5, 6, 7, 8, 3, 4, 5, 99, 1, 2, 3)
    assert drafter.propose(sequence, 2).tolist() == [4, 5]
    extend(sequence, 4, 5)
    assert drafter.propose(sequence, 2).tolist() == [6, 7]


def test_another_place_is_looked_up_when_the_text_goes_on_differently():
    drafter, sequence = eager(), sequence_of(1, 2, 3, 4, 5, 20, 21, 22, 23, 1, 2, 3)
    assert drafter.propose(sequence, 2).tolist() == [4, 5]
    extend(sequence, 20, 21, 22)
    assert drafter.propose(sequence, 2).tolist() == [23, 1]


def test_wrong_guesses_become_fewer_then_pause_and_pauses_grow():
    drafter, sequence = Drafter(), sequence_of(*[5] * 20)
    asked, sizes = [], []
    for number in range(400):
        if size := drafter.propose(sequence, 4).size:
            asked.append(number)
            sizes.append(size)
            drafter.observe(sequence, size, 0)
        extend(sequence, 5)
    assert sizes == [2, *[2] * (len(sizes) - 1)] and max(sizes) < 4
    assert [later - earlier for earlier, later in pairwise(asked)] == [16, 32, 64, 128]


def test_right_guesses_become_more_and_end_the_caution():
    drafter, sequence = Drafter(), sequence_of(*[5] * 20)
    drafter.observe(sequence, 4, 0)
    assert drafter.propose(sequence, 5).size == 0
    extend(sequence, *[5] * 16)
    sizes = []
    for _ in range(6):
        sizes.append(drafter.propose(sequence, 5).size)
        drafter.observe(sequence, sizes[-1], sizes[-1])
    assert sizes == sorted(sizes) and (sizes[0], sizes[-1]) == (2, 5)
    for _ in range(4):
        drafter.observe(sequence, 5, 0)
    assert (drafter.num_drafted, drafter.num_accepted) == (24 + sum(sizes), sum(sizes))


def test_tokens_taken_out_are_not_looked_up():
    drafter, sequence = eager(), sequence_of(*range(30), 1, 2, 3)
    assert drafter.propose(sequence, 2).tolist() == [4, 5]
    sequence.discard(1, 25)
    assert drafter.propose(sequence, 2).tolist() == []
    extend(sequence, 26, 27, 28)
    assert drafter.propose(sequence, 2).tolist() == [29, 1]


@pytest.mark.parametrize("seed", range(20))
def test_any_guess_is_what_followed_the_same_three_tokens(seed):
    dice = random.Random(seed)
    drafter, sequence = eager(), sequence_of(*(dice.randrange(3) for _ in range(dice.randint(1, 30))))
    for _ in range(60):
        tokens = sequence.tokens[: sequence.num_tokens].tolist()
        ends = [end for end in range(3, len(tokens)) if tokens[end - 3 : end] == tokens[-3:]]
        guesses = drafter.propose(sequence, 1).tolist()
        assert bool(guesses) == bool(ends)
        assert not guesses or guesses[0] in {tokens[end] for end in ends}
        extend(sequence, *(dice.randrange(3) for _ in range(dice.randint(1, 4))))
