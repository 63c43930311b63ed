from router.policy.circuit import FIRST_PAUSE, LONGEST_PAUSE, THRESHOLD, Circuit


def opened(times: int = 1) -> tuple[Circuit, float]:
    """A circuit that has opened so many times, and when it did so last."""
    circuit, now = Circuit(), 0.0
    for _ in range(THRESHOLD):
        circuit.begin(now)
        circuit.end(now, True)
    for _ in range(times - 1):
        now += LONGEST_PAUSE
        circuit.begin(now)
        circuit.end(now, True)
    return circuit, now


def test_it_opens_only_after_failures_in_a_row() -> None:
    circuit = Circuit()
    for failed in [*[True] * (THRESHOLD - 1), False, *[True] * (THRESHOLD - 1)]:
        circuit.end(0.0, failed)
    assert circuit.name(0.0) == "closed"


def test_an_open_one_lets_one_probe_through_when_its_time_is_over() -> None:
    circuit, now = opened()
    assert not circuit.admits(now + FIRST_PAUSE - 0.1)
    assert circuit.admits(now + FIRST_PAUSE)
    circuit.begin(now + FIRST_PAUSE)
    assert not circuit.admits(now + FIRST_PAUSE)


def test_a_probe_that_says_nothing_makes_room_for_the_next() -> None:
    circuit, now = opened()
    circuit.begin(now + FIRST_PAUSE)
    circuit.end(now + FIRST_PAUSE, None)
    assert circuit.admits(now + FIRST_PAUSE)


def test_each_pause_is_twice_as_long_up_to_the_longest() -> None:
    circuit, now = opened(times=2)
    assert not circuit.admits(now + 2 * FIRST_PAUSE - 0.1)
    assert circuit.admits(now + 2 * FIRST_PAUSE)
    circuit, now = opened(times=20)
    assert circuit.admits(now + LONGEST_PAUSE)


def test_a_success_closes_it_and_forgets() -> None:
    circuit, now = opened(times=3)
    circuit.end(now, False)
    assert circuit.name(now) == "closed"
    circuit.end(now, True)
    assert circuit.name(now) == "closed"
