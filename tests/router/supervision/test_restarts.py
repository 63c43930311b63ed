import signal

import pytest

from router.config import SupervisionConfig
from router.supervision.restarts import RestartPolicy, describe_exit

MIDDLE = 0.5  # the chance that makes no jitter


def policy(chance: float = MIDDLE, **settings: float) -> RestartPolicy:
    return RestartPolicy(SupervisionConfig(**settings), lambda: chance)  # type: ignore[arg-type]


def test_delays_double_up_to_a_ceiling() -> None:
    """F7."""
    restarts = policy(max_crashes=100)
    delays = [restarts.after_crash(now=1000.0 * number, lived=1.0) for number in range(11)]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30])


def test_jitter_moves_a_delay_by_at_most_its_share() -> None:
    assert policy(chance=0.0).after_crash(0.0, 1.0) == pytest.approx(0.075)
    assert policy(chance=1.0).after_crash(0.0, 1.0) == pytest.approx(0.125)


def test_too_many_crashes_in_the_window_are_the_end() -> None:
    restarts = policy()
    delays = [restarts.after_crash(now=10.0 * number, lived=1.0) for number in range(8)]
    assert delays[6] is not None
    assert delays[7] is None


def test_crashes_that_left_the_window_do_not_count() -> None:
    restarts = policy()
    assert all(restarts.after_crash(now=30.0 * number, lived=1.0) is not None for number in range(20))


def test_a_long_healthy_life_makes_earlier_crashes_forgotten() -> None:
    restarts = policy()
    for number in range(7):
        restarts.after_crash(now=float(number), lived=1.0)
    assert restarts.after_crash(now=70.0, lived=60.0) == 0.1


def test_a_life_just_too_short_does_not() -> None:
    restarts = policy()
    for number in range(7):
        restarts.after_crash(now=float(number), lived=1.0)
    assert restarts.after_crash(now=70.0, lived=59.0) is None


@pytest.mark.parametrize(
    ("returncode", "words"),
    [
        (1, "exit status 1"),
        (-signal.SIGKILL, "SIGKILL (killed, probably out of memory)"),
        (-signal.SIGBUS, "SIGBUS (bus error, the model file may have changed while it was mapped)"),
        (-signal.SIGSEGV, "SIGSEGV (segmentation fault)"),
        (-signal.SIGUSR1, "SIGUSR1"),
        (-200, "signal 200"),
    ],
)
def test_exits_are_described(returncode: int, words: str) -> None:
    assert describe_exit(returncode) == words
