import pytest

from tests.worker.fake_model import FakeDetokenizer
from worker.context import Capacity, check_fits, is_overfull, num_draftable, sequence_for, shift
from worker.errors import ContextExceeded, InvalidRequest
from worker.generation import Request
from worker.sampler import Sampling
from worker.sequence import Guessing


def capacity(**changes) -> Capacity:
    settings = {"context_length": 32, "num_blocks": 8, "block_size": 4, "max_running": 2, "max_waiting": 9}
    return Capacity(step_tokens=8, **settings | changes)


def request(num_prompt: int = 10, **fields) -> Request:
    return Request(range(num_prompt), Sampling(1), FakeDetokenizer(), **fields)


def test_a_prompt_must_leave_room_for_a_token():
    check_fits(request(31), capacity())
    with pytest.raises(ContextExceeded):
        check_fits(request(32), capacity())
    with pytest.raises(ContextExceeded):
        check_fits(request(32), capacity(shifts_context=True))


def test_resumed_tokens_beyond_the_context_need_the_shift():
    with pytest.raises(InvalidRequest, match=r"'resume'.*\(33\).*\(32\)"):
        check_fits(request(10, resumed=range(23)), capacity())
    check_fits(request(10, resumed=range(23)), capacity(shifts_context=True))


@pytest.mark.parametrize(
    ("max_tokens", "shifts", "most"),
    [(5, False, 15), (100, False, 32), (-1, False, 32), (100, True, 110), (-1, True, 42)],
)
def test_an_answer_ends_with_the_context_or_where_it_was_told(max_tokens, shifts, most):
    sequence = sequence_for(request(10, max_tokens=max_tokens), capacity(shifts_context=shifts), 0.0)
    assert sequence.max_tokens == most


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (0, 16)),
        ({"num_kept": 4}, (4, 14)),
        ({"num_kept": -1}, (10, 11)),
        ({"num_kept": 100}, (28, 2)),
        ({"num_kept": 4, "num_discarded": 3}, (4, 3)),
        ({"num_kept": 4, "num_discarded": 99}, (4, 27)),
    ],
    ids=str,
)
def test_a_shift_keeps_the_beginning_and_takes_out_half_of_the_rest(fields, expected):
    assert shift(request(10, **fields), capacity()) == expected


def test_resumed_tokens_see_the_shifts_they_saw_before():
    wide = capacity(shifts_context=True)
    resumed = list(range(100, 160))
    step_by_step = sequence_for(request(10, num_kept=3, max_tokens=90), wide, 0.0)
    for token in resumed:
        step_by_step.append(token)
        if is_overfull(step_by_step, wide):
            step_by_step.discard(*shift(request(10, num_kept=3), wide))
    at_once = sequence_for(request(10, num_kept=3, max_tokens=90, resumed=resumed), wide, 0.0)
    assert at_once.tokens[: at_once.num_tokens].tolist() == step_by_step.tokens[: step_by_step.num_tokens].tolist()
    assert at_once.num_completion_tokens == step_by_step.num_completion_tokens == 60


@pytest.mark.parametrize("changes", [{"step_tokens": 1}, {"num_blocks": 7}])
def test_a_capacity_that_cannot_serve_is_a_mistake_of_ours(changes):
    with pytest.raises(ValueError):
        Capacity(**{"context_length": 32, "num_blocks": 8, "block_size": 4, "max_running": 2, "max_waiting": 9,
                    "step_tokens": 8} | changes)  # fmt: skip


@pytest.mark.parametrize(("most", "at_once"), [(None, 4), (0, 0), (2, 2), (99, 4)])
def test_no_more_is_guessed_than_the_request_wants_and_the_worker_may(most, at_once):
    wanted = request(10, guessing=Guessing(most))
    for max_drafts, num in ((4, at_once), (0, 0)):
        may = capacity(max_drafts=max_drafts)
        assert num_draftable(sequence_for(wanted, may, 0.0), may) == num
