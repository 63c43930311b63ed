import signal

import pytest

from router.config import SupervisionConfig
from router.supervision.restarts import RestartPolicy, describe_exit, shell_code

MIDDLE = 0.5  # the chance that makes no jitter


def policy(chance: float = MIDDLE, **settings: float) -> RestartPolicy:
    return RestartPolicy(SupervisionConfig(**settings), lambda: chance)  # type: ignore[arg-type]


def test_delays_double_up_to_a_ceiling() -> None:
    """F7."""
    restarts = policy(max_crashes=100)
    delays = [restarts.after_crash(now=1000.0 * number, lived=1.0) for number in range(9)]
    assert delays == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 30])


def test_jitter_moves_a_delay_by_at_most_its_share() -> None:
    assert policy(chance=0.0).after_crash(0.0, 1.0) == pytest.approx(0.375)
    assert policy(chance=1.0).after_crash(0.0, 1.0) == pytest.approx(0.625)


def test_a_worker_that_cannot_live_is_started_six_times_in_two_minutes() -> None:
    """F7. The first start, and one after each delay."""
    restarts, now, delays = policy(), 0.0, []
    while (delay := restarts.after_crash(now, lived=0.1)) is not None:
        delays.append(delay)
        now += delay
    assert delays == [0.5, 1, 2, 4, 8]
    assert now < SupervisionConfig().crash_window


def test_crashes_that_left_the_window_do_not_count() -> None:
    restarts = policy()
    assert all(restarts.after_crash(now=30.0 * number, lived=1.0) is not None for number in range(20))


def test_a_worker_that_crashes_after_a_long_healthy_life_is_back_at_once() -> None:
    restarts = policy()
    for number in range(5):
        restarts.after_crash(now=float(number), lived=1.0)
    assert restarts.after_crash(now=70.0, lived=60.0) == 0
    assert [restarts.after_crash(now=71.0 + number, lived=1.0) for number in range(5)] == [0.5, 1, 2, 4, None]


def test_a_life_just_too_short_is_one_more_crash() -> None:
    restarts = policy()
    for number in range(5):
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


def test_an_exit_code_is_as_a_shell_has_it() -> None:
    assert [shell_code(returncode) for returncode in (0, 2, -signal.SIGKILL)] == [0, 2, 137]
