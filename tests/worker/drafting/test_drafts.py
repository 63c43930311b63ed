import numpy as np
import pytest

from worker.drafting.drafts import Acceptance, Alternatives
from worker.sequence import Sequence


class Told:
    """A drafter that guesses what it was told to, and is worth what it was told."""

    def __init__(self, guesses: list[int], worth: float) -> None:
        self.guesses, self.value = guesses, worth
        self.asked: list[Sequence] = []
        self.observed: list[tuple[int, int]] = []
        self.forgotten: list[Sequence] = []

    def propose(self, wanted):
        self.asked += wanted
        return {sequence: np.array(self.guesses, np.int32) for sequence in wanted}

    def observe(self, sequence, num_drafted, num_accepted):
        self.observed.append((num_drafted, num_accepted))

    def worth(self, sequence):
        return self.value

    def forget(self, sequence):
        self.forgotten.append(sequence)


@pytest.mark.parametrize(
    ("ready", "slow", "expected"),
    [
        (Told([1, 2], 0.3), Told([3], 0.2), [1, 2]),
        (Told([1, 2], 0.2), Told([3], 0.3), [3]),
        (Told([1, 2], 0.2), Told([], 0.3), [1, 2]),  # it does not know yet
        (Told([], 0.3), Told([3], 0.2), [3]),
    ],
)
def test_the_drafter_that_does_better_guesses_and_learns_what_became_of_it(ready, slow, expected):
    sequence = Sequence([1], (), 100, shares_prefix=True)
    both = Alternatives(ready, slow)
    assert both.propose({sequence: 2})[sequence].tolist() == expected
    both.observe(sequence, 2, 1)
    author, other = (ready, slow) if expected == ready.guesses else (slow, ready)
    assert (author.observed, other.observed) == ([(2, 1)], [])
    assert bool(slow.asked) is not (ready.guesses == expected and ready.value >= slow.value)
    assert both.worth(sequence) == max(ready.value, slow.value)
    both.forget(sequence)
    assert ready.forgotten == slow.forgotten == [sequence]


def test_a_guess_is_worth_how_often_it_is_right_less_what_it_costs():
    sequence = Sequence([1], (), 100, shares_prefix=True)
    cheap, dear = Acceptance(0.2), Acceptance(0.7)
    for acceptance in (cheap, dear):
        for _ in range(50):
            acceptance.observe(sequence, 4, 3)
    assert (cheap.worth, dear.worth) == (pytest.approx(0.55), pytest.approx(0.05))
