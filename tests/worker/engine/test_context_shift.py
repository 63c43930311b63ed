"""A context that is full is shifted, where that is allowed."""

import pytest

from tests.worker.engine.bench import alone, shifting
from worker.generation import FinishReason
from worker.sampling.settings import Memory


def test_with_context_shift_an_answer_outgrows_the_context():
    with shifting() as bench:
        inbox = bench.submit([3] * 10, max_tokens=100)
        finished = inbox.result()
        bench.wait_until_idle()
    assert (finished.reason, finished.num_completion_tokens, finished.truncated) == (FinishReason.LENGTH, 100, True)
    assert len(inbox.tokens) == 100


def test_an_answer_without_an_end_stops_after_another_context():
    with shifting() as bench:
        assert bench.submit([3] * 10, max_tokens=-1).result().num_completion_tokens == 32


def test_an_answer_that_fits_is_not_shifted():
    with shifting() as bench:
        inbox = bench.submit([3] * 10, max_tokens=22)
        assert not inbox.result().truncated
    assert inbox.tokens == alone([3] * 10, max_tokens=22).tokens


def test_a_shifted_answer_goes_on_as_if_the_shortened_text_had_been_the_prompt():
    prompt = list(range(2, 12))
    with shifting() as bench:
        inbox = bench.submit(prompt, max_tokens=30, num_kept=5)
        inbox.result()
    before = prompt + inbox.tokens[:22]
    shortened = before[:5] + before[5 + 27 // 2 :]
    rest = alone(shortened, max_tokens=8, resumed=(), memory=Memory(22))
    assert inbox.tokens[22:] == rest.tokens


@pytest.mark.parametrize("num_resumed", [5, 21, 22, 23, 40, 60, 79, 80])
@pytest.mark.parametrize("shift", [{}, {"num_kept": -1}, {"num_kept": 7, "num_discarded": 3}], ids=str)
def test_a_shifted_answer_is_resumed_elsewhere_with_the_same_tokens(num_resumed, shift):
    with shifting() as bench:
        whole = bench.submit([3] * 10, max_tokens=80, **shift)
        whole.result()
    with shifting() as other:
        resumed = {"resumed": whole.tokens[:num_resumed], "memory": Memory(num_resumed)}
        rest = other.submit([3] * 10, max_tokens=80, **resumed, **shift)
        rest.result()
    assert rest.tokens == whole.tokens[num_resumed:]


@pytest.mark.parametrize("shift", [{"num_kept": 1000}, {"num_kept": 31, "num_discarded": 1000}], ids=str)
def test_a_shift_leaves_room_whatever_is_asked_for(shift):
    with shifting() as bench:
        assert bench.submit([3] * 31, max_tokens=50, **shift).result().num_completion_tokens == 50


def test_shifting_requests_disturb_nobody():
    with shifting(max_running=3) as bench:
        inboxes = [bench.submit([3 + i] * 10, max_tokens=60) for i in range(6)]
        for inbox in inboxes:
            inbox.result()
        bench.wait_until_idle()
    for i, inbox in enumerate(inboxes):
        with shifting() as lone:
            expected = lone.submit([3 + i] * 10, max_tokens=60)
            expected.result()
        assert inbox.tokens == expected.tokens
