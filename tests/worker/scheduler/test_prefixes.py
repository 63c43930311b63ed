"""Prefixes that several sequences share are computed once."""

from tests.worker.scheduler.bench import Bench
from worker.sequence import Sequence


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
