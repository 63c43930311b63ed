"""When blocks run out: who waits for them, and who gives its own back."""

import numpy as np

from tests.worker.scheduler.bench import BLOCK, Bench
from worker.cache.kv_cache import chain
from worker.sequence import NO_PLACE


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


def test_who_is_first_in_line_waits_for_blocks_that_are_held_to_be_copied_although_nobody_runs():
    bench = Bench(num_blocks=4)
    names, held = chain(np.arange(3 * BLOCK, dtype=np.int32), BLOCK), []
    assert all(bench.pool.hold_next(names, held) for _ in names)
    waiting = bench.add(2 * BLOCK, 100)
    assert bench.step() == bench.step() == {}
    bench.pool.give_back(held)
    assert bench.step() == {waiting: 2 * BLOCK}
