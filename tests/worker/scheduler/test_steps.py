"""What a step holds: budget, target, and whose tokens come first."""

import random

import pytest

from tests.worker.scheduler.bench import BLOCK, Bench, counts
from worker.scheduler import LEAST_CHUNK
from worker.sequence import Sequence
from worker.step_cost import Work


def test_a_prompt_is_read_in_chunks_of_the_budget():
    bench = Bench(step_tokens=8)
    sequence = bench.add(20)
    assert [bench.step()[sequence] for _ in range(4)] == [8, 8, 4, 1]


def test_a_sequence_gets_a_token_only_when_it_has_caught_up():
    bench = Bench(step_tokens=8)
    sequence = bench.add(9)
    assert bench.scheduler.commit(bench.scheduler.schedule(), 0.01) == []
    assert bench.scheduler.commit(bench.scheduler.schedule(), 0.01) == [sequence]


def test_running_answers_come_before_a_prompt_in_the_same_step():
    bench = Bench(num_blocks=64, step_tokens=8)
    first, second = bench.add(3, 0), bench.add(3, 100)
    bench.step()
    prompt = bench.add(40, 200)
    assert list(bench.step().items()) == [(first, 1), (second, 1), (prompt, 6)]
    third = bench.add(2, 300)
    assert bench.step() == {first: 1, second: 1, prompt: 6}
    assert third.num_blocks == 0


def test_prompts_are_read_in_the_order_of_their_arrival():
    bench = Bench(num_blocks=64, step_tokens=8)
    first, second = bench.add(6, 0), bench.add(6, 100)
    assert bench.step() == {first: 6, second: 2}
    assert bench.step() == {first: 1, second: 4}


def test_an_empty_scheduler_has_no_work_and_an_empty_step():
    bench = Bench()
    assert not bench.scheduler.has_work
    batch = bench.scheduler.schedule()
    assert (batch.sequences, batch.work) == ([], Work())


def test_chunks_keep_a_step_under_its_target():
    bench = Bench(num_blocks=5000, step_tokens=10_000, step_seconds=0.05)
    running = bench.add(3)
    bench.step()
    prompt = bench.add(18_000, 100)
    chunks = [bench.step(seconds_per_token=0.0001)[prompt] for _ in range(20)]
    assert all(400 < chunk < 520 for chunk in chunks[10:])
    chunks = [bench.step(seconds_per_token=0.001)[prompt] for _ in range(60)]
    assert all(40 < chunk < 60 for chunk in chunks[30:])
    assert running.num_computed == 3 + 80


def test_a_step_that_holds_up_no_answer_may_take_four_times_as_long():
    bench = Bench(num_blocks=5000, step_tokens=10_000, step_seconds=0.05)
    prompt = bench.add(18_000)
    alone = [bench.step(seconds_per_token=0.001)[prompt] for _ in range(40)]
    assert all(170 < chunk < 210 for chunk in alone[20:])
    answer = bench.add(1, 20_000, priority=9)
    while answer.num_computed == 0:
        bench.step(seconds_per_token=0.001)
    assert all(40 < bench.step(seconds_per_token=0.001)[prompt] < 60 for _ in range(20))


def test_where_every_step_takes_long_prompts_may_take_as_long_again():
    bench = Bench(num_blocks=5000, step_tokens=10_000, step_seconds=0.05)
    prompt = bench.add(18_000)
    for _ in range(60):
        batch = bench.scheduler.schedule()
        bench.scheduler.commit(batch, 0.3 + 0.003 * batch.work.num_tokens)
    assert 80 < batch.counts[0] < 120 and batch.sequences == [prompt]


def test_a_prompt_goes_on_even_where_no_step_is_short_enough():
    bench = Bench(num_blocks=5000, step_tokens=100, step_seconds=1e-9)
    first, second = bench.add(10_000), bench.add(2 * LEAST_CHUNK, 20_000)
    for _ in range(3):
        batch = bench.scheduler.schedule()
        bench.scheduler.commit(batch, float(batch.work.num_tokens))
    before = first.num_computed
    for step in range(1, 20):
        batch = bench.scheduler.schedule()
        assert counts(batch) == {first: LEAST_CHUNK}
        bench.scheduler.commit(batch, float(batch.work.num_tokens))
        assert first.num_computed == before + step * LEAST_CHUNK
    assert (bench.scheduler.num_waiting, second.num_blocks) == (1, 0)


def test_a_shift_has_the_rest_computed_anew_and_keeps_the_beginning():
    bench = Bench(num_blocks=8, step_tokens=64)
    sequence, waiting = bench.add(12), bench.add(24, 100)
    bench.step()
    bench.scheduler.shift(sequence, 4, 4)
    assert sequence.tokens[: sequence.num_tokens].tolist() == [0, 1, 2, 3, 8, 9, 10, 11, 7]
    assert (sequence.num_computed, sequence.num_completion_tokens) == (0, 1)
    assert bench.step()[sequence] == 5  # the first block was found
    assert waiting.num_blocks == 0


@pytest.mark.parametrize("seed", range(30))
def test_random_traffic_is_served_in_order_within_budget_and_without_standing_still(seed):
    dice = random.Random(seed)
    num_blocks, max_running = dice.randint(4, 12), dice.randint(1, 5)
    step_tokens = dice.randint(max_running, 20)
    bench = Bench(num_blocks, max_running, 1000, step_tokens, dice.choice([1e9, 0.02, 1e-9]))
    unborn = [(dice.randint(1, num_blocks * BLOCK - 1), dice.choice([0, 0, 50])) for _ in range(25)]
    alive: dict[Sequence, int] = {}
    arrived: list[Sequence] = []
    first_run: list[Sequence] = []
    for _ in range(5000):
        if unborn and dice.random() < 0.3:
            length, first_token = unborn.pop()
            sequence = bench.add(length, first_token)
            arrived.append(sequence)
            alive[sequence] = min(num_blocks * BLOCK, length + dice.randint(1, 12))
        if not alive and not unborn:
            break
        if alive and dice.random() < 0.05:
            gone = dice.choice(list(alive))
            bench.scheduler.remove(gone)
            del alive[gone]
        step = bench.step()
        assert bool(step) == bool(alive)
        assert sum(step.values()) <= step_tokens and len(step) <= max_running
        for sequence in step:
            assert sequence.num_blocks * BLOCK >= sequence.num_computed
            if sequence not in first_run:
                first_run.append(sequence)
            if sequence.num_tokens >= alive[sequence]:
                bench.scheduler.remove(sequence)
                del alive[sequence]
        pool = bench.pool
        assert pool.num_free + pool.num_cached + pool.num_held == num_blocks
    assert not alive and not unborn
    assert first_run == [sequence for sequence in arrived if sequence in first_run]
    assert bench.pool.num_held == 0
