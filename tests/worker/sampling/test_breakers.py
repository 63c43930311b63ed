import numpy as np
import pytest

from worker.sampling.breakers import NO_BREAKERS, BreakerReader, Breakers

PIECES = [b"<s>", b"a", b"b", b"ab", b"\n", b" \n\n", b"xa", b"xab", b"", "é".encode(), b"aa"]


def read(*strings: str) -> Breakers:
    def tokenize(text: str) -> list[int]:
        return [PIECES.index(letter.encode()) for letter in text]

    return BreakerReader(len(PIECES), PIECES.__getitem__, tokenize).read(strings)


def since(breakers: Breakers, *tokens: int) -> int:
    return breakers.tokens_since(np.array(tokens, np.int32))


def test_a_token_that_holds_a_breaker_breaks_alone():
    breakers = read("\n")
    assert [token for token in range(len(PIECES)) if breakers.breaks_alone(token)] == [4, 5]
    assert since(breakers, 1, 4, 2, 5, 1, 2, 3) == 3
    assert since(breakers, 1, 2) == 2


def test_a_breaker_over_several_tokens_needs_all_of_them():
    breakers = read("ab")
    assert [token for token in range(len(PIECES)) if breakers.breaks_alone(token)] == [3, 7]
    assert since(breakers, 2, 1, 2, 10) == 1  # "a", "b"; then "aa", after which no "b" has come yet
    assert since(breakers, 1, 1) == 2
    assert since(breakers, 6, 2, 1) == 1  # "xa", "b"
    assert since(breakers, 2, 3) == 0


def test_overlapping_beginnings_are_all_known():
    assert since(read("aab"), 6, 1, 2, 4) == 1  # "xa", "a", "b"
    assert since(read("aab"), 10, 2, 4) == 1  # "aa", "b"


def test_the_longer_of_two_breakers_with_one_head_counts():
    assert since(read("ab", "aba"), 1, 2, 1, 9) == 1


@pytest.mark.parametrize("string", ["zzz", "\0", "é\n"])
def test_a_breaker_that_no_token_holds_breaks_nothing(string):
    breakers = read(string)
    assert since(breakers, 1, 2, 3) == 3
    assert not any(breakers.breaks_alone(token) for token in range(len(PIECES)))


def test_no_breakers_break_nothing():
    assert since(NO_BREAKERS, 4, 4, 4) == 3
