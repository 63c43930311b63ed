"""Long work that is done a piece at a time."""

from concurrent.futures import Future

import pytest

from worker.chores import Chores, promised


def work(name: str, num_pieces: int, done: list[str]):
    for number in range(num_pieces):
        done.append(f"{name}{number}")
        yield
    return name


def test_one_piece_is_done_at_a_time_and_one_work_after_the_other():
    chores, done = Chores(), []
    chores.add(work("a", 2, done))
    chores.add(work("b", 1, done))
    for expected in (["a0"], ["a0", "a1"], ["a0", "a1"], ["a0", "a1", "b0"]):
        assert chores
        chores.advance()
        assert done == expected
    chores.advance()
    assert not chores
    chores.advance()


def test_what_is_left_is_done_in_the_end():
    chores, done = Chores(), []
    chores.add(work("a", 3, done))
    chores.add(work("b", 2, done))
    chores.advance()
    chores.finish()
    assert done == ["a0", "a1", "a2", "b0", "b1"] and not chores


def test_who_waits_gets_the_result_or_the_error():
    chores, result, error = Chores(), Future(), Future()

    def failing():
        yield
        raise ValueError("no")

    chores.add(promised(work("a", 2, []), result))
    chores.add(promised(failing(), error))
    chores.finish()
    assert result.result(0) == "a"
    with pytest.raises(ValueError, match="no"):
        error.result(0)


def test_work_that_nobody_waits_for_any_more_is_not_begun():
    chores, future, done = Chores(), Future(), []
    chores.add(promised(work("a", 1, done), future))
    assert future.cancel()
    chores.finish()
    assert not done
