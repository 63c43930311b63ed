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
    running, waiting = bench.add(6), bench.add(6, 100)
    stranger = Sequence([1], (), 9, shares_prefix=True)
    bench.step()
    for sequence in (running, waiting, stranger, running):
        bench.scheduler.remove(sequence)
    assert not bench.scheduler.has_work
    assert bench.pool.num_held == 0


def test_places_are_the_lowest_free_ones_or_those_wanted():
    bench = Bench(num_blocks=64, max_running=4, step_tokens=64)
    sequences = [bench.add(2, 0), bench.add(2, 10, wanted_place=3), bench.add(2, 20, wanted_place=3)]
    bench.step()
    assert [sequence.place for sequence in sequences] == [0, 3, 1]
    bench.scheduler.remove(sequences[0])
    late = bench.add(2, 30)
    bench.step()
    assert (sequences[0].place, late.place) == (NO_PLACE, 0)


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
