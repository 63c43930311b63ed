"""Who runs, and where: places, the line for them, and how long it takes."""

import pytest

from tests.worker.scheduler.bench import Bench
from worker.errors import Overloaded
from worker.sequence import NO_PLACE, Sequence


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


def test_removing_works_in_every_state_and_twice():
    bench = Bench(max_running=1)
    running, waiting, aside = bench.add(6), bench.add(6, 100, arrived=1), bench.add(6, 200, wanted_place=0)
    stranger = Sequence([1], (), 9, shares_prefix=True, wanted_place=0)
    bench.step()
    for sequence in (aside, running, waiting, aside, stranger, running):
        bench.scheduler.remove(sequence)
    assert not bench.scheduler.has_work
    assert bench.pool.num_held == 0


def test_places_are_the_lowest_free_ones_or_those_wanted():
    bench = Bench(num_blocks=64, max_running=4, step_tokens=64)
    sequences = [bench.add(2, 0), bench.add(2, 10, wanted_place=3), bench.add(2, 20)]
    bench.step()
    assert [sequence.place for sequence in sequences] == [0, 3, 1]
    bench.scheduler.remove(sequences[0])
    late = bench.add(2, 30)
    bench.step()
    assert (sequences[0].place, late.place) == (NO_PLACE, 0)


def test_a_place_that_somebody_wants_is_left_to_it():
    bench = Bench(num_blocks=64)
    early, picky = bench.add(2, 0), bench.add(2, 10, wanted_place=0)
    bench.step()
    assert (early.place, picky.place) == (1, 0)


def test_who_wants_a_place_that_is_taken_waits_for_it_and_holds_up_nobody():
    bench = Bench(num_blocks=64, max_running=2)
    holder = bench.add(2, 0)
    bench.step()
    picky, other = bench.add(2, 10, wanted_place=0), bench.add(2, 20)
    assert list(bench.step()) == [holder, other]
    bench.scheduler.remove(other)
    bench.step()
    assert (picky.place, bench.scheduler.num_waiting) == (NO_PLACE, 1)
    bench.scheduler.remove(holder)
    assert picky in bench.step() and picky.place == 0


def test_who_waits_for_a_place_has_it_in_its_order_once_it_is_free():
    bench = Bench(num_blocks=64, max_running=1)
    holder = bench.add(2)
    bench.step()
    late = bench.add(2, 10, arrived=3, wanted_place=0)
    bench.step()
    early, urgent = bench.add(2, 20, arrived=2), bench.add(2, 30, arrived=4, wanted_place=0, priority=6)
    bench.scheduler.remove(holder)
    order = []
    for _ in range(3):
        [running] = bench.step()
        order.append(running)
        bench.scheduler.remove(running)
    assert order == [urgent, early, late]


def test_a_higher_priority_takes_the_very_place_that_it_wants():
    bench = Bench(num_blocks=64, max_running=3)
    low, lowest = bench.add(2, 0, priority=2), bench.add(2, 10, priority=1)
    bench.step()
    urgent = bench.add(2, 20, priority=9, wanted_place=0)
    assert {low, lowest, urgent} == bench.step().keys()
    assert (low.place, lowest.place, urgent.place) == (2, 1, 0)


def test_nobody_makes_way_for_an_equal_that_wants_its_place():
    bench = Bench(num_blocks=64, max_running=3)
    holder = bench.add(2, 0)
    bench.step()
    equal = bench.add(2, 10, wanted_place=0)
    for _ in range(3):
        assert list(bench.step()) == [holder]
    assert equal.place == NO_PLACE


def test_who_is_preempted_goes_on_at_the_place_it_had():
    bench = Bench(num_blocks=8, max_running=3)
    old, young = bench.add(12), bench.add(12, 100, wanted_place=2)
    while young.num_blocks or young.num_tokens == 12:
        bench.step()
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
