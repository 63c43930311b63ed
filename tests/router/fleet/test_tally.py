import random

from protos import inference_pb2 as pb
from router.fleet.eviction import Cause
from router.fleet.tally import LoadEnd, Tally
from router.fleet.totals import COUNTS


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def told(tokens: int, steps: int = 0, longest: int = 0) -> pb.StatsReply:
    return pb.StatsReply(predicted_tokens_total=tokens, num_steps=steps, longest_sequence=longest, num_running=3)


def counted(tally: Tally) -> pb.StatsReply:
    stats = pb.StatsReply()
    tally.put_into(stats)
    return stats


def test_what_a_worker_had_counted_stays_when_another_takes_its_place() -> None:
    tally = Tally()
    first = tally.worker(from_start=True)
    first.note(told(10, steps=4, longest=90))
    first.note(told(25, steps=9, longest=95))
    second = tally.worker(from_start=True)
    second.note(told(1, steps=1, longest=7))
    assert counted(tally) == pb.StatsReply(predicted_tokens_total=26, num_steps=10, longest_sequence=95)


def test_a_worker_that_ran_before_counts_from_when_it_was_reached() -> None:
    tally = Tally()
    for _ in range(2):  # connections to the same worker
        worker = tally.worker(from_start=False)
        worker.note(told(1000))
        worker.note(told(1010))
    assert counted(tally).predicted_tokens_total == 20


def test_replies_that_overtake_each_other_count_once() -> None:
    tally = Tally()
    worker = tally.worker(from_start=True)
    for reply in (told(5), told(9), told(7), told(9), told(12)):
        worker.note(reply)
    assert counted(tally).predicted_tokens_total == 12


def test_no_count_falls_whatever_becomes_of_the_workers() -> None:
    chance = random.Random(7)
    tally, before = Tally(), counted(Tally())
    totals: dict[int, list[int]] = {}
    lives = [(number, tally.worker(from_start=True)) for number in range(3)]
    for step in range(500):
        place = chance.randrange(3)
        number, life = lives[place]
        if chance.random() < 0.1:
            lives[place] = (step + 3, tally.worker(from_start=True))
            continue
        numbers = totals.setdefault(number, [0] * len(COUNTS))
        numbers[:] = [value + chance.randrange(5) for value in numbers]
        life.note(pb.StatsReply(**dict(zip(COUNTS, numbers, strict=True))))
        after = counted(tally)
        assert all(getattr(after, name) >= getattr(before, name) for name in COUNTS)
        before = after
    assert [getattr(before, name) for name in COUNTS] == [sum(each) for each in zip(*totals.values(), strict=True)]


def test_only_counts_are_put_in_the_place_of_what_workers_tell_now() -> None:
    tally = Tally()
    tally.worker(from_start=True).note(told(10))
    now = pb.StatsReply(num_running=2, resident_bytes=5, predicted_tokens_total=1)
    tally.put_into(now)
    assert now == pb.StatsReply(num_running=2, resident_bytes=5, predicted_tokens_total=10)


def test_the_rate_of_a_model_is_that_of_all_its_workers() -> None:
    clock = Clock()
    tally = Tally(clock)
    old, new = tally.worker(from_start=True), tally.worker(from_start=True)
    for second in range(8):
        clock.now = float(second)
        old.note(told(100 * second))
        new.note(told(20 * second))
    assert (round(old.tokens_per_second), round(new.tokens_per_second), round(tally.tokens_per_second)) == (
        100,
        20,
        120,
    )


def test_every_load_has_one_end_and_those_that_end_well_a_duration() -> None:
    clock = Clock()
    tally = Tally(clock)
    tally.load_ends(LoadEnd.READY)
    for end in (LoadEnd.READY, LoadEnd.FAILED):
        tally.load_begins()
        clock.now += 3.0
        tally.load_ends(end)
        tally.load_ends(LoadEnd.READY)
    tally.load_begins()
    tally.unloaded(Cause.ASKED)
    tally.unloaded(Cause.TTL)
    assert tally.num_loads == {LoadEnd.READY: 1, LoadEnd.FAILED: 1, LoadEnd.CUT: 1}
    assert tally.num_unloads == {Cause.ASKED: 1, Cause.TTL: 1, Cause.MEMORY: 0, Cause.MODELS_MAX: 0}
    assert (tally.load_seconds.total, sum(tally.load_seconds.counts)) == (3.0, 1)
