import pytest

from router.fleet.pace import RECENT, WINDOW, Look, Pace, Throughput


def pace(*looks: tuple[float, int]) -> Pace:
    """Looks at tokens of answers, once a second or so."""
    made = Pace()
    for time, tokens in looks:
        made.note(Look(time, tokens=tokens))
    return made


def test_a_rate_is_of_the_last_seconds_whatever_came_before() -> None:
    busy = pace(*((float(second), 1000 if second < 50 else 1000 + 20 * (second - 50)) for second in range(60)))
    assert busy.tokens_per_second(59.0) == pytest.approx(20.0)


def test_an_answer_that_has_just_begun_is_not_thinned_by_the_silence_before_it() -> None:
    begun = pace((96.0, 7), (97.0, 7), (98.0, 7), (99.0, 57), (100.0, 107))
    assert begun.tokens_per_second(100.0) == pytest.approx(50.0)


def test_an_idle_worker_has_the_rate_zero() -> None:
    assert pace().tokens_per_second(5.0) == 0.0
    assert pace((0.0, 500)).tokens_per_second(1.0) == 0.0
    ended = [(float(second), min(100 * second, 500)) for second in range(12)]
    assert pace(*ended[:8]).tokens_per_second(7.0) > 0
    assert pace(*ended).tokens_per_second(11.0) == 0.0
    assert pace((0.0, 0), (1.0, 500)).tokens_per_second(1.0 + RECENT) == 0.0, "nobody has looked since"


def test_a_few_tokens_at_once_are_no_rate() -> None:
    assert pace((9.0, 0), (9.01, 8)).tokens_per_second(9.01) == 8.0


def test_looks_far_apart_count_from_the_last_one_before() -> None:
    assert pace((0.0, 0), (20.0, 400)).tokens_per_second(20.0) == pytest.approx(20.0)


def test_many_looks_at_once_are_remembered_as_few() -> None:
    looked = Pace()
    for step in range(100_000):
        looked.note(Look(step / 100, tokens=step))
    assert len(looked._looks) < 200
    assert looked.tokens_per_second(999.99) == pytest.approx(100.0, rel=0.01)


def test_throughput_is_by_the_time_of_computing_and_of_the_last_minute() -> None:
    made = Pace()
    made.note(Look(0.0))
    assert made.throughput(0.0) == Throughput()
    made.note(Look(10.0, prompt_tokens=300, prompt_seconds=2.0, tokens=40, seconds=4.0))
    assert made.throughput(10.0) == Throughput(prompt=150.0, answer=10.0)
    made.note(Look(80.0, prompt_tokens=300, prompt_seconds=2.0, tokens=100, seconds=6.0))
    assert made.throughput(80.0) == Throughput(prompt=0.0, answer=30.0)
    made.note(Look(81.0 + WINDOW, prompt_tokens=300, prompt_seconds=2.0, tokens=100, seconds=6.0))
    assert made.throughput(81.0 + WINDOW) == Throughput()
