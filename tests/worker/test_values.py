import argparse

import pytest

from worker.values import Real, Whole


@pytest.mark.parametrize("text", ["", "abc", "1.5", "0x10", "9" * 5000])
def test_what_is_no_whole_number_is_called_so(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number"):
        Whole(10)(text)


@pytest.mark.parametrize("text", ["2", "11", "-1"])
def test_a_whole_number_outside_its_range_is_refused_with_both_ends(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"{text} is not between 3 and 10"):
        Whole(10, least=3)(text)


@pytest.mark.parametrize("text", ["0.4", "2.1", "nan", "inf", "-inf"])
def test_a_number_outside_its_range_is_refused_with_both_ends(text):
    with pytest.raises(argparse.ArgumentTypeError, match=rf"{text} is not between 0\.5 and 2"):
        Real(0.5, 2)(text)


def test_what_is_no_number_is_called_so():
    with pytest.raises(argparse.ArgumentTypeError, match="'abc' is not a number"):
        Real(0)("abc")


def test_values_at_both_ends_are_taken_and_one_may_be_turned_round():
    assert [Whole(10, least=3)(text) for text in ("3", "10")] == [3, 10]
    assert [Real(0.5, 2)(text) for text in ("0.5", "2")] == [0.5, 2.0]
    assert Real(0.5, inverse=True)("4") == 0.25
