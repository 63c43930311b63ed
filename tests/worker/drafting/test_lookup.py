import random
from itertools import pairwise

import pytest

from worker.drafting.lookup import LookupDrafter
from worker.sequence import Sequence


def sequence_of(*tokens: int, num_completion: int = 0) -> Sequence:
    split = len(tokens) - num_completion
    return Sequence(tokens[:split], tokens[split:], 10_000, shares_prefix=True)


def extend(sequence: Sequence, *tokens: int) -> None:
    for token in tokens:
        sequence.append(token)


def eager(sequence: Sequence) -> LookupDrafter:
    """One whose guesses have been right in this sequence."""
    drafter = LookupDrafter()
    for _ in range(10):
        drafter.observe(sequence, 1, 1)
    return drafter


def guesses(drafter: LookupDrafter, sequence: Sequence, most: int) -> list[int]:
    return drafter.propose({sequence: most})[sequence].tolist()


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
    sequence = sequence_of(*tokens)
    assert guesses(eager(sequence), sequence, 4) == expected


def test_no_more_is_guessed_than_asked_for():
    sequence = sequence_of(*range(20), *range(5))
    drafter = eager(sequence)
    assert [guesses(drafter, sequence, most) for most in (2, 0, -3)] == [[5, 6], [], []]


def test_a_quotation_is_followed_where_it_was_found_though_its_words_stand_elsewhere_too():
    sequence = sequence_of(1, 2, 3, 4, 5, 6, 7, 8, 3, 4, 5, 99, 1, 2, 3)
    drafter = eager(sequence)
    assert guesses(drafter, sequence, 2) == [4, 5]
    extend(sequence, 4, 5)
    assert guesses(drafter, sequence, 2) == [6, 7]


def test_another_place_is_looked_up_when_the_text_goes_on_differently():
    sequence = sequence_of(1, 2, 3, 4, 5, 20, 21, 22, 23, 1, 2, 3)
    drafter = eager(sequence)
    assert guesses(drafter, sequence, 2) == [4, 5]
    extend(sequence, 20, 21, 22)
    assert guesses(drafter, sequence, 2) == [23, 1]


def test_wrong_guesses_become_fewer_then_pause_and_pauses_grow():
    drafter, sequence = LookupDrafter(), sequence_of(*[5] * 20)
    asked, sizes = [], []
    for number in range(400):
        if size := len(guesses(drafter, sequence, 4)):
            asked.append(number)
            sizes.append(size)
            drafter.observe(sequence, size, 0)
        extend(sequence, 5)
    assert sizes == [2, *[2] * (len(sizes) - 1)] and max(sizes) < 4
    assert [later - earlier for earlier, later in pairwise(asked)] == [16, 32, 64, 128]


def test_right_guesses_become_more_and_end_the_caution():
    drafter, sequence = LookupDrafter(), sequence_of(*[5] * 20)
    drafter.observe(sequence, 4, 0)
    assert guesses(drafter, sequence, 5) == []
    extend(sequence, *[5] * 16)
    sizes = []
    for _ in range(6):
        sizes.append(len(guesses(drafter, sequence, 5)))
        drafter.observe(sequence, sizes[-1], sizes[-1])
    assert sizes == sorted(sizes) and (sizes[0], sizes[-1]) == (2, 5)


def test_tokens_taken_out_are_not_looked_up():
    sequence = sequence_of(*range(30), 1, 2, 3)
    drafter = eager(sequence)
    assert guesses(drafter, sequence, 2) == [4, 5]
    sequence.discard(1, 25)
    assert guesses(drafter, sequence, 2) == []
    extend(sequence, 26, 27, 28)
    assert guesses(drafter, sequence, 2) == [29, 1]


@pytest.mark.parametrize("seed", range(20))
def test_any_guess_is_what_followed_the_same_three_tokens(seed):
    dice = random.Random(seed)
    sequence = sequence_of(*(dice.randrange(3) for _ in range(dice.randint(1, 30))))
    drafter = eager(sequence)
    for _ in range(60):
        tokens = sequence.tokens[: sequence.num_tokens].tolist()
        ends = [end for end in range(3, len(tokens)) if tokens[end - 3 : end] == tokens[-3:]]
        found = guesses(drafter, sequence, 1)
        assert bool(found) == bool(ends)
        assert not found or found[0] in {tokens[end] for end in ends}
        extend(sequence, *(dice.randrange(3) for _ in range(dice.randint(1, 4))))
