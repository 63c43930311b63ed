"""What rounds of alone and together say, from made-up figures."""

import pytest

from bench.sharing import Round, as_markdown, tokens_between
from bench.sse import Exchange


def test_only_tokens_that_arrived_in_the_time_are_counted_by_the_servers_usage() -> None:
    one = Exchange(0.0, 9.0, arrivals=[1.0, 2.0, 3.0, 4.0], num_generated=8)
    assert tokens_between(one, 2.0, 4.0) == 4
    assert tokens_between(Exchange(0.0), 0.0, 9.0) == 0


def test_a_share_is_the_sum_of_what_each_model_keeps() -> None:
    assert Round(alone=(100.0, 50.0), together=(60.0, 20.0), foreign=0.0).share == pytest.approx(1.0)


def test_rounds_that_others_disturbed_do_not_count_beside_quiet_ones() -> None:
    quiet, loud = Round((100.0,), (90.0,), 0.02), Round((100.0,), (10.0,), 0.5)
    assert "| a | 100.0 | 90.0 | 0.90 | 2% |" in as_markdown({"a": [quiet, loud]}, ["m"])
    assert "| a | 100.0 | 10.0 | 0.10 | 50% |" in as_markdown({"a": [loud]}, ["m"])
