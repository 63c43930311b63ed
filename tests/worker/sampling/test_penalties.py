"""What DRY lowers, and by how much, in texts short enough to count by hand."""

import numpy as np
import pytest

from worker.sampling.breakers import NO_BREAKERS, Breakers
from worker.sampling.candidates import Candidates
from worker.sampling.penalties import dry

VOCAB = 20
BREAKER = 9


def lowered(history: list[int], breakers: Breakers = NO_BREAKERS, **changes: float) -> dict[int, float]:
    """Tokens whose logit DRY lowered, and by how much."""
    candidates = Candidates(VOCAB)
    candidates.start(np.zeros(VOCAB, np.float32))
    settings = {"last_n": -1, "multiplier": 1.0, "base": 2.0, "allowed_length": 2, **changes}
    dry(candidates, np.array(history, np.int32), breakers=breakers, **settings)
    with candidates.by_token() as logits:
        assert (candidates.peaks == logits.reshape(-1, 64).max(axis=1)).all()
    return {token: -float(logit) for token, logit in enumerate(candidates.logits) if logit}


@pytest.mark.parametrize(("num_repeated", "penalty"), [(1, None), (2, 1.0), (3, 2.0), (4, 4.0)])
def test_the_penalty_doubles_with_each_token_repeated(num_repeated, penalty):
    found = lowered([1, 2, 3, 4, 5, 6, *[1, 2, 3, 4][4 - num_repeated :]])
    assert found == ({} if penalty is None else {5: penalty})


def test_the_longest_of_several_repetitions_counts():
    assert lowered([1, 2, 3, 7, 8, 2, 3, 7, 1, 2, 3]) == {7: 2.0}


@pytest.mark.parametrize(("num_since", "penalty"), [(1, None), (2, 1.0), (3, 2.0)])
def test_a_repetition_is_counted_from_the_last_breaker_on(num_since, penalty):
    text = [1, 2, 3, 4]
    text.insert(4 - num_since, BREAKER)
    found = lowered([*text, 5, 6, *text], Breakers({BREAKER: [()]}))
    assert found == ({} if penalty is None else {5: penalty})


def test_a_breaker_itself_is_never_lowered():
    assert lowered([1, 2, BREAKER, 1, 2], Breakers({BREAKER: [()]})) == {}
    assert lowered([1, 2, BREAKER, 1, 2]) == {BREAKER: 1.0}


def test_only_the_latest_tokens_are_looked_at():
    assert lowered([1, 2, 3, 4, 1, 2, 3], last_n=6) == {4: 1.0}
    assert lowered([1, 2, 3, 4, 1, 2, 3], last_n=3) == {}


def test_a_penalty_stays_a_number():
    assert lowered([1] * 300, base=1e9, multiplier=1e9) == {1: pytest.approx(1e30)}
    assert lowered([1] * 300, base=1e9, multiplier=-1e9) == {1: pytest.approx(-1e30)}
