"""Who computes next, decided without clocks or processes."""

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from worker.cores import turns
from worker.cores.turns import NOBODY, NUM_SLOTS

SLOTS = st.integers(0, NUM_SLOTS - 1)
TURNS = st.builds(
    lambda number, waiting, holder: waiting << 32 | number << 8 | holder,
    st.integers(0, (1 << 24) - 1), st.integers(0, (1 << 32) - 1), st.integers(0, NUM_SLOTS),
)  # fmt: skip
STEP, QUANTUM = 5_000, 12_000


@dataclass
class Host:
    """Workers that always want to compute, and how the cores pass between them. `steps` are times of a step."""

    weights: list[float]
    steps: Callable[[int], int] = lambda slot: STEP
    computed: list[int] = field(default_factory=list)
    virtual_times: list[int] = field(default_factory=list)
    holder: int = 0
    longest_wait: int = 0

    def __post_init__(self) -> None:
        self.computed = [0] * len(self.weights)
        self.virtual_times = [0] * len(self.weights)

    def run(self, num_steps: int) -> None:
        waited = dict.fromkeys(range(len(self.weights)), 0)
        for _ in range(num_steps):
            self._step(waited)

    def _step(self, waited: dict[int, int]) -> None:
        own, spent = self.holder, self.steps(self.holder)
        self.computed[own] += spent
        self.virtual_times[own] = turns.charged(self.virtual_times[own], spent, self.weights[own])
        for slot in waited:
            waited[slot] = 0 if slot == own else waited[slot] + spent
        self.longest_wait = max(self.longest_wait, *waited.values())
        others = {slot: time for slot, time in enumerate(self.virtual_times) if slot != own}
        if not turns.goes_on(self.virtual_times[own], others, QUANTUM):
            self.holder = turns.furthest_behind(others)


@given(TURNS, SLOTS)
def test_the_next_turn_is_the_heirs_who_waits_no_longer_while_the_others_do(turn: int, heir: int) -> None:
    after = turns.handed_to(turn, heir)
    assert turns.holder(after) == heir
    assert turns.waiting(after) == [slot for slot in turns.waiting(turn) if slot != heir]
    assert after & 0xFFFFFFFF != turn & 0xFFFFFFFF
    assert 0 <= after < 1 << 64


@given(TURNS)
def test_a_freed_turn_is_nobodys_and_whoever_waits_still_waits(turn: int) -> None:
    after = turns.handed_to(turn, NOBODY)
    assert turns.holder(after) == NOBODY
    assert turns.waiting(after) == turns.waiting(turn)


@given(TURNS, SLOTS)
def test_an_open_turn_is_nobodys_and_nobody_waits_for_one(turn: int, slot: int) -> None:
    after = turns.opened(turn)
    assert turns.is_open(after) and turns.holder(after) == NOBODY and not turns.waiting(after)
    assert after & 0xFFFFFFFF != turn & 0xFFFFFFFF
    assert not turns.is_open(turns.with_waiting(after, slot)) and not turns.is_open(turns.handed_to(after, slot))


@given(TURNS, SLOTS)
def test_joining_and_leaving_the_line_leave_what_sleepers_watch(turn: int, slot: int) -> None:
    joined = turns.with_waiting(turn, slot)
    left = turns.without_waiting(joined, slot)
    assert turns.is_waiting(joined, slot)
    assert turns.waiting(left) == [other for other in turns.waiting(turn) if other != slot]
    assert joined & 0xFFFFFFFF == turn & 0xFFFFFFFF


def test_the_number_of_the_turn_wraps_and_reaches_no_other_field() -> None:
    last = turns.with_waiting(0xFFFFFF << 8, 31)
    assert turns.handed_to(last, 4) == turns.with_waiting(5, 31)


def test_nobody_comes_next_where_nobody_waits() -> None:
    assert turns.furthest_behind({}) == NOBODY
    assert not turns.goes_on(0, {}, QUANTUM)


def test_who_is_furthest_behind_comes_next_and_the_lower_slot_of_two_equals() -> None:
    assert turns.furthest_behind({3: 70, 9: 50, 5: 50}) == 5


def test_a_worker_goes_on_until_it_is_a_quantum_ahead() -> None:
    assert turns.goes_on(QUANTUM, {1: 0, 2: 100}, QUANTUM)
    assert not turns.goes_on(QUANTUM + 1, {1: 0, 2: 100}, QUANTUM)


def test_equal_workers_compute_equally_long_whatever_their_steps_take() -> None:
    host = Host([1.0, 1.0, 1.0], steps=lambda slot: (3_000, 7_000, 50_000)[slot])
    host.run(10_000)
    assert max(host.computed) - min(host.computed) <= 2 * (QUANTUM + 50_000)


def test_time_is_shared_by_weight() -> None:
    host = Host([1.0, 3.0, 0.5])
    host.run(30_000)
    total = sum(host.computed)
    for computed, part in zip(host.computed, (1 / 4.5, 3 / 4.5, 0.5 / 4.5), strict=True):
        assert abs(computed - total * part) <= total * 0.01


@given(st.lists(st.sampled_from([0.01, 0.5, 1.0, 2.0, 100.0]), min_size=2, max_size=8))
def test_everybody_is_served_within_what_the_weights_of_the_others_allow(weights: list[float]) -> None:
    host = Host(weights)
    host.run(2000)
    others = sum(weights) - min(weights)
    bound = (2 * QUANTUM + 2 * STEP / min(weights)) * others + len(weights) * (QUANTUM + STEP)
    assert host.longest_wait <= bound
