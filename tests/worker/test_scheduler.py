import random

import numpy as np
import pytest

from worker.batch import Batch
from worker.cache.kv_cache import BlockPool
from worker.errors import Overloaded
from worker.scheduler import LEAST_CHUNK, Limits, Scheduler
from worker.sequence import NO_PLACE, Sequence, Standing
from worker.step_cost import Work

BLOCK = 4


class Bench:
    def __init__(self, num_blocks=16, max_running=4, max_waiting=10, step_tokens=16, step_seconds=1e9) -> None:
        self.pool = BlockPool(num_blocks, BLOCK)
        self.scheduler = Scheduler(self.pool, Limits(max_running, max_waiting, step_tokens, step_seconds))

    def add(self, num_tokens: int, first_token: int = 0, *, wanted_place=NO_PLACE, **standing) -> Sequence:
        tokens = range(first_token, first_token + num_tokens)
        return self.add_tokens(tokens, wanted_place=wanted_place, standing=Standing(**standing))

    def add_tokens(self, tokens, *, shares_prefix=True, **settings) -> Sequence:
        sequence = Sequence(tokens, (), len(tokens) + 1000, shares_prefix=shares_prefix, **settings)
        self.scheduler.add(sequence)
        return sequence

    def step(self, seconds_per_token: float = 0.001) -> dict[Sequence, int]:
        """Schedules, computes and gives each sequence that caught up its next token."""
        batch = self.scheduler.schedule()
        for sequence in self.scheduler.commit(batch, seconds_per_token * batch.work.num_tokens):
            sequence.append(7)
        return counts(batch)


def counts(batch: Batch) -> dict[Sequence, int]:
    return dict(zip(batch.sequences, batch.counts, strict=True))


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


def test_no_more_run_than_there_are_places():
    bench = Bench(max_running=2)
    sequences = [bench.add(2, 10 * i) for i in range(3)]
    assert list(bench.step()) == sequences[:2]
    assert (bench.scheduler.num_running, bench.scheduler.num_waiting) == (2, 1)
    bench.scheduler.remove(sequences[0])
    assert list(bench.step()) == sequences[1:]


def test_a_full_line_refuses():
    bench = Bench(max_waiting=2)
    bench.add(1)
    bench.add(1)
    with pytest.raises(Overloaded, match="2 requests wait"):
        bench.add(1)


def test_a_newcomer_waits_for_all_of_its_blocks_and_so_does_who_comes_after():
    bench = Bench(num_blocks=8)
    running = bench.add(12)
    bench.step()
    large, small = bench.add(30, 100), bench.add(1, 200)
    assert list(bench.step()) == [running]
    bench.scheduler.remove(running)
    assert list(bench.step()) == [large]
    bench.scheduler.remove(large)
    assert list(bench.step()) == [small]


def test_a_newcomer_waits_if_it_would_take_the_last_block_of_those_who_run():
    bench = Bench(num_blocks=4)
    running = bench.add(8)
    bench.step()
    bench.step()
    assert bench.pool.num_available == 1
    waiting = bench.add(4, 100)
    assert list(bench.step()) == [running]
    assert bench.scheduler.num_waiting == 1
    assert waiting.num_blocks == 0


def test_a_newcomer_does_not_compute_what_another_has():
    bench = Bench()
    first = bench.add(10)
    bench.step()
    second = bench.add(10)
    assert bench.step() == {first: 1, second: 2}
    assert (second.num_cached, first.num_cached) == (8, 0)


def with_prefix(bench: Bench, length: int, count: int) -> list[Sequence]:
    """Sequences of so many common tokens and four of their own."""
    prompts = [[*range(length), *range(10_000 + 4 * i, 10_004 + 4 * i)] for i in range(count)]
    return [bench.add_tokens(prompt) for prompt in prompts]


def test_sequences_that_come_together_compute_their_common_prefix_once():
    bench = Bench(num_blocks=400, max_running=16, max_waiting=16, step_tokens=256)
    sequences = with_prefix(bench, 1000, 16)
    computed = [sum(bench.step().values()) for _ in range(5)]
    assert computed == [256, 256, 256, 236, 1 + 15 * 4]
    assert [sequence.num_cached for sequence in sequences] == [0] + 15 * [1000]


def test_who_comes_later_adopts_what_is_computed_and_waits_for_the_rest():
    bench = Bench(num_blocks=64, step_tokens=16)
    first, second = with_prefix(bench, 32, 2)
    bench.step()
    bench.scheduler.remove(first)
    third = with_prefix(bench, 32, 1)[0]
    assert bench.step() == {second: 16}
    assert [bench.step() for _ in range(2)] == [{second: 4, third: 4}, {second: 1, third: 1}]


def test_a_cancelled_prefix_is_computed_by_the_next_in_line():
    bench = Bench(num_blocks=64, step_tokens=16)
    first, second, third = with_prefix(bench, 40, 3)
    assert bench.step() == {first: 16}
    bench.scheduler.remove(first, forget=True)
    assert bench.step() == {second: 16}
    assert second.num_cached == 0 and third.num_blocks == 0


def test_nobody_waits_for_a_prefix_that_is_not_shared():
    bench = Bench(num_blocks=64, step_tokens=100)
    first = bench.add_tokens(range(30), shares_prefix=False)
    second = bench.add_tokens(range(30))
    third = bench.add_tokens(range(30), shares_prefix=False)
    assert bench.step() == {first: 30, second: 30, third: 30}


def test_others_in_line_lose_the_rest_of_one_step_to_one_that_waits_for_a_prefix():
    bench = Bench(num_blocks=64, step_tokens=32)
    first, second = with_prefix(bench, 20, 2)
    other = bench.add(6, 5000)
    assert bench.step() == {first: 24}
    assert bench.step() == {first: 1, second: 4, other: 6}


def test_when_blocks_run_out_the_youngest_gives_its_own_back_and_goes_first_in_line():
    bench = Bench(num_blocks=8)
    old, young = bench.add(12), bench.add(12, 100)
    bench.step()
    bench.step()
    late = bench.add(4, 200)
    while bench.scheduler.num_running == 2:
        bench.step()
    assert young.num_blocks == young.num_computed == 0
    assert bench.scheduler.num_waiting == 2
    bench.scheduler.remove(old)
    assert list(bench.step()) == [young, late]


def test_a_preempted_sequence_keeps_its_tokens_and_what_it_was_told():
    bench = Bench(num_blocks=6)
    old, young = bench.add(8), bench.add(8, 100)
    while bench.scheduler.num_running < 2 or bench.scheduler.num_waiting:
        bench.step()
    while bench.scheduler.num_running == 2:
        bench.step()
    tokens = young.tokens[: young.num_tokens].tolist()
    assert (young.num_cached, tokens[:8]) == (0, list(range(100, 108)))
    bench.scheduler.remove(old)
    bench.step()
    assert young.num_cached == 0
    assert young.tokens[: len(tokens)].tolist() == tokens


def test_nobody_takes_the_blocks_of_a_sequence_that_is_in_the_step_already():
    bench = Bench(num_blocks=4)
    old, young = bench.add(4), bench.add(4, 100)
    bench.step()
    bench.step()
    for token in range(5):
        old.append(token)
    assert bench.step() == {young: 1, old: 3}
    assert young.num_blocks == 2


def test_the_oldest_always_goes_on_even_with_the_whole_pool():
    bench = Bench(num_blocks=4, step_tokens=4)
    oldest = bench.add(2)
    for i in range(3):
        bench.add(2, 100 * (i + 1))
    for _ in range(13):
        before = oldest.num_computed
        bench.step()
        assert oldest.num_computed > before
    assert oldest.num_blocks == 4


def test_removing_works_in_every_state_and_twice():
    bench = Bench(max_running=1)
    running, waiting = bench.add(6), bench.add(6, 100)
    stranger = Sequence([1], (), 9, shares_prefix=True)
    bench.step()
    for sequence in (running, waiting, stranger, running):
        bench.scheduler.remove(sequence)
    assert not bench.scheduler.has_work
    assert bench.pool.num_held == 0


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


def test_a_higher_priority_gets_the_next_place():
    bench = Bench(max_running=1)
    running, usual, urgent = bench.add(2), bench.add(2, 10), bench.add(2, 20, priority=9)
    assert list(bench.step()) == [urgent]
    bench.scheduler.remove(urgent)
    assert list(bench.step()) == [running]
    bench.scheduler.remove(running)
    assert list(bench.step()) == [usual]


def test_a_client_with_many_requests_leaves_places_to_another():
    bench = Bench(num_blocks=64, max_running=2)
    many = [bench.add(8, 100 * i, client="many") for i in range(9)]
    few = bench.add(8, 5000, client="few")
    assert list(bench.step()) == [many[0], few]


def test_tokens_computed_count_against_a_client_and_cached_ones_do_not():
    bench = Bench(num_blocks=64, max_running=1, step_tokens=100)
    dear = bench.add(40, client="a")
    bench.step()
    bench.scheduler.remove(dear)
    cheap, other, next_of_a = bench.add(40, client="a"), bench.add(30, 1000, client="b"), bench.add(9, 60, client="a")
    order = []
    for _ in range(3):
        [sequence] = bench.step()
        order.append(sequence)
        bench.scheduler.remove(sequence)
    assert order == [cheap, other, next_of_a]


def test_places_are_the_lowest_free_ones_or_those_wanted():
    bench = Bench(num_blocks=64, max_running=4, step_tokens=64)
    sequences = [bench.add(2, 0), bench.add(2, 10, wanted_place=3), bench.add(2, 20, wanted_place=3)]
    bench.step()
    assert [sequence.place for sequence in sequences] == [0, 3, 1]
    bench.scheduler.remove(sequences[0])
    late = bench.add(2, 30)
    bench.step()
    assert (sequences[0].place, late.place) == (NO_PLACE, 0)


def test_a_preempted_sequence_comes_back_to_its_place():
    bench = Bench(num_blocks=8)
    old, young = bench.add(12), bench.add(12, 100, wanted_place=2)
    while bench.scheduler.num_running < 2 or bench.scheduler.num_waiting:
        bench.step()
    while bench.scheduler.num_running == 2:
        bench.step()
    assert young.place == NO_PLACE
    bench.scheduler.remove(old)
    bench.step()
    assert young.place == 2


def test_the_wait_follows_from_who_is_ahead_and_how_long_they_stay():
    bench = Bench(max_running=2, max_waiting=6)
    assert bench.scheduler.expected_wait == 0
    for i in range(2):
        gone = bench.add(2, 10 * i)
        bench.step()
        bench.scheduler.remove(gone, stayed=20.0)
    sequences = [bench.add(2, 10 * i) for i in range(6)]
    bench.step()
    short = bench.scheduler.expected_wait
    for _ in range(100):
        bench.scheduler.remove(sequences[0], stayed=20.0)
    bench.step()
    assert 0 < short < bench.scheduler.expected_wait == pytest.approx(4 * 20 / 2, rel=0.01)


def test_a_refusal_tells_the_wait():
    bench = Bench(max_running=1, max_waiting=3)
    for i in range(4):
        bench.add(2, 10 * i)
        bench.step()
    with pytest.raises(Overloaded, match="3 requests wait already") as caught:
        bench.add(2)
    assert caught.value.wait_seconds == bench.scheduler.expected_wait == 4.0


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


def test_a_higher_priority_takes_the_place_of_a_lower_one_that_goes_on_later():
    bench = Bench(max_running=1)
    low = bench.add(6, priority=2)
    bench.step()
    high = bench.add(2, 100, priority=8)
    assert bench.step() == {high: 2} and low.num_blocks == 0
    bench.add(2, 200, priority=8, arrived=1)
    equal = bench.scheduler.schedule()
    assert list(equal.sequences) == [high]
    bench.scheduler.commit(equal, 0.01)
    bench.scheduler.remove(high)
    assert low not in bench.step()


def test_a_higher_priority_takes_the_blocks_of_a_lower_one_only_where_there_are_too_few():
    bench = Bench(num_blocks=10)
    low, lower = bench.add(9, priority=4), bench.add(9, 100, priority=3)
    bench.step()
    bench.step()
    small = bench.add(2, 200, priority=9)
    assert {low, lower, small} <= bench.step().keys()
    bench.scheduler.remove(small)
    large = bench.add(12, 300, priority=9)
    assert large not in bench.step()  # it is found to lack blocks
    step = bench.step()
    assert large in step and low in step and lower.num_blocks == 0


def test_whoever_makes_way_for_ever_new_ones_of_a_higher_priority_gets_its_turn():
    bench = Bench(max_running=1)
    low = bench.add(2, priority=0)
    num_steps, newcomers = 0, []
    while low.num_tokens < 10 and num_steps < 1000:
        if not newcomers or newcomers[-1].num_tokens >= 5:
            for done in newcomers[-1:]:
                bench.scheduler.remove(done)
            newcomers.append(bench.add(2, 100 + num_steps, priority=9, arrived=float(num_steps)))
        bench.step()
        num_steps += 1
    assert low.num_tokens == 10 and newcomers[1].num_tokens == 5


def test_nobody_makes_way_for_another_clients_priority():
    bench = Bench(max_running=1)
    low = bench.add(2, priority=0, client="a")
    bench.step()
    bench.add(2, 100, priority=9, client="b")
    assert bench.step() == {low: 1}
