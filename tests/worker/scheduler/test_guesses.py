"""Guesses computed behind a sequence's tokens, as far as there is room."""

import numpy as np

from tests.worker.scheduler.bench import Bench, counts
from worker.sequence import Sequence
from worker.step_cost import Work


def guesses(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


def caught_up(bench: Bench, num_tokens: int, first_token: int = 0) -> Sequence:
    sequence = bench.add(num_tokens, first_token)
    bench.step()
    return sequence


def test_guesses_join_the_token_they_follow_and_count_once_they_are_accepted():
    bench = Bench()
    sequence = caught_up(bench, 6)
    batch = bench.scheduler.schedule({sequence: guesses(1, 2, 3)})
    assert (counts(batch), batch.drafts[sequence].tolist(), batch.num_read) == ({sequence: 1}, [1, 2, 3], 0)
    assert batch.work == Work(num_tokens=4, num_pairs=7 + 8 + 9 + 10)
    assert bench.scheduler.commit(batch, 0.01) == [sequence]
    assert (sequence.num_computed, len(bench.pool.names())) == (7, 1)
    sequence.append(1)
    bench.scheduler.accept(sequence)
    assert (sequence.num_computed, len(bench.pool.names())) == (8, 2)
    sequence.append(5)
    assert bench.step() == {sequence: 1}


def test_guesses_leave_a_token_of_the_step_for_everybody():
    bench = Bench(num_blocks=64, step_tokens=8)
    first, second = caught_up(bench, 6), caught_up(bench, 4, 50)
    prompt = caught_up(bench, 30, 100)
    batch = bench.scheduler.schedule({first: guesses(1, 2, 3), second: guesses(4, 5, 6)})
    assert (counts(batch), {s: d.size for s, d in batch.drafts.items()}) == (
        {first: 1, second: 1, prompt: 1},
        {first: 3, second: 2},
    )


def test_guesses_take_no_block_that_somebody_who_runs_may_need():
    bench = Bench(num_blocks=4, step_tokens=16)
    first, second = caught_up(bench, 5), caught_up(bench, 3, 50)
    batch = bench.scheduler.schedule({first: guesses(1, 2, 3), second: guesses(4, 5, 6)})
    assert {sequence: drafts.tolist() for sequence, drafts in batch.drafts.items()} == {first: [1]}
    assert bench.pool.num_available == 1 and bench.scheduler.num_running == 2


def test_guesses_for_one_who_has_to_wait_are_left_out():
    bench = Bench(num_blocks=4)
    old, young = caught_up(bench, 4), caught_up(bench, 4, 100)
    while young.num_blocks:
        batch = bench.scheduler.schedule({young: guesses(1, 2)})
        assert young in batch.sequences or not batch.drafts
        for sequence in bench.scheduler.commit(batch, 0.01):
            sequence.append(7)
    assert old.num_blocks and not bench.scheduler.schedule({young: guesses(1, 2)}).drafts
