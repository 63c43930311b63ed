"""The core lease between real processes, and what happens when one of them dies, stops, or finds a bad file."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.worker.turn_taker import DEADLINE, Turn, collect, takers
from worker.config import WorkerConfig
from worker.cores import lease as lease_module
from worker.cores import turns
from worker.cores.lease import CoreLease, LeaseUnusable, OwnCores, host_path
from worker.cores.turns import NUM_SLOTS
from worker.startup import share_cores

MILLISECOND = 1_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "turns"


def assert_apart(found: list[list[Turn]]) -> None:
    """No two steps at the same time."""
    for before, after in pairwise(sorted(turn for each in found for turn in each)):
        assert before.ended <= after.began


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.001)


def waiting(lease: CoreLease) -> list[int]:
    """The slots that wait."""
    return turns.waiting(lease._words[8])


# ---- between processes ------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [2, 8])
def test_workers_take_turns_and_never_compute_at_once(path: Path, num_workers: int) -> None:
    gate = CoreLease(path)
    with takers(path, *[1.0] * num_workers) as workers:
        with gate:
            for taker in workers:
                taker.compute(20)
            until(lambda: len(waiting(gate)) == num_workers)
        gate.release()
        found = collect(workers, 20)
    assert_apart(found)
    in_order = sorted((turn, owner) for owner, each in enumerate(found) for turn in each)
    assert {owner for _, owner in in_order[:num_workers]} == set(range(num_workers))


def test_a_worker_that_is_idle_delays_nobody(path: Path) -> None:
    with takers(path, 1.0, 1.0, quantum=10**12) as (first, second):
        first.compute(3)
        first.turns(3)
        second.compute(3)
        second.turns(3)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_the_others_go_on_when_the_holder_is_killed_or_stopped(path: Path, end: signal.Signals) -> None:
    with takers(path, 1.0, 1.0, 1.0) as (holder, *others):
        holder.compute_on()
        for taker in others:
            taker.compute(5)
        holder.signal(end)
        assert_apart(collect(others, 5))


def test_a_stopped_holder_that_goes_on_has_lost_its_turn_and_queues_again(path: Path) -> None:
    with takers(path, 1.0, 1.0) as (holder, other):
        holder.compute_on()
        holder.signal(signal.SIGSTOP)
        other.compute(5)
        other.turns(5)
        other.compute_on()
        holder.signal(signal.SIGCONT)
        holder.end_step()
        holder.compute(1)
        last = other.end_step()
        assert holder.turns(1)[0].began >= last.ended
        for taker in (holder, other):
            taker.compute(20)
        assert_apart(collect([holder, other], 20))


def test_one_that_is_stopped_while_it_waits_keeps_nobody_waiting(path: Path) -> None:
    watcher = CoreLease(path)
    with takers(path, 1.0, 1.0, 1.0) as (holder, sleeper, other):
        holder.compute_on()
        sleeper.compute(1)
        until(lambda: len(waiting(watcher)) == 1)
        sleeper.signal(signal.SIGSTOP)
        other.compute(5)
        until(lambda: len(waiting(watcher)) == 2)
        holder.end_step()
        other.turns(5)
        sleeper.signal(signal.SIGCONT)
        sleeper.turns(1)


def test_a_worker_may_take_the_place_of_one_that_died_computing(path: Path) -> None:
    with takers(path, 1.0) as (holder,):
        holder.compute_on()
        holder.kill()
        late = CoreLease(path)
        assert late.slot == 0 and not late.held
        with late:
            assert late.held


# ---- in one process ---------------------------------------------------------------------------


def test_the_lease_is_free_again_after_a_step_nobody_waited_for(path: Path) -> None:
    first, second = CoreLease(path), CoreLease(path)
    with first:
        assert first.held and not second.held
    with second:
        assert second.held and not first.held
    assert not second.held


def test_it_is_passed_on_when_a_step_fails(path: Path) -> None:
    lease = CoreLease(path)
    with pytest.raises(RuntimeError), lease:
        raise RuntimeError
    assert not lease.held


# ---- steps that are shared --------------------------------------------------------------------


def entering(lease: CoreLease, meet: Callable[[], object]) -> threading.Thread:
    """A thread that computes one shared step, in which it calls `meet`."""

    def compute() -> None:
        with lease.step(shared=True):
            meet()
        lease.release()

    thread = threading.Thread(target=compute, daemon=True)
    thread.start()
    return thread


def test_shared_steps_take_no_turns(path: Path) -> None:
    one, other = CoreLease(path), CoreLease(path)
    with one.step(shared=True), other.step(shared=True):
        assert not one.held and not other.held


def test_a_step_of_its_own_waits_for_no_shared_one_and_those_that_follow_wait_for_it(path: Path) -> None:
    alone, sharing = CoreLease(path), CoreLease(path)
    with sharing.step(shared=True):
        alone.step(shared=False).__enter__()
        assert alone.held
    entered = threading.Event()
    thread = entering(sharing, entered.set)
    until(lambda: waiting(alone) == [sharing.slot])
    assert not entered.is_set()
    alone.release()
    thread.join(DEADLINE)
    assert entered.is_set()


def test_all_that_share_go_on_at_once_when_the_last_step_of_its_own_is_over(path: Path) -> None:
    alone, *sharing = (CoreLease(path, quantum=10**12) for _ in range(4))
    meeting = threading.Barrier(3)
    with alone.step(shared=False):
        threads = [entering(each, lambda: meeting.wait(DEADLINE)) for each in sharing]
        until(lambda: len(waiting(alone)) == 3)
    alone.release()
    for thread in threads:
        thread.join(DEADLINE)
    assert not meeting.broken and not any(each.held for each in sharing)


def test_a_turn_is_not_shared_while_somebody_waits_for_one_of_its_own(path: Path) -> None:
    alone, first, second = (CoreLease(path, quantum=0) for _ in range(3))
    alone.step(shared=False).__enter__()
    go_on = threading.Event()
    threads = [entering(each, lambda: go_on.wait(DEADLINE)) for each in (first, second)]
    until(lambda: len(waiting(alone)) == 2)
    alone._words[alone._line + 1] += 1_000_000  # it has computed
    alone.__exit__()
    until(lambda: first.held)
    waits = threading.Thread(target=alone.__enter__, daemon=True)
    waits.start()
    until(lambda: waiting(alone) == [alone.slot, second.slot])
    go_on.set()
    for thread in (*threads, waits):
        thread.join(DEADLINE)
    assert alone.held


def test_a_worker_with_a_weight_takes_turns(path: Path) -> None:
    weighty, sharing = CoreLease(path, 2.0), CoreLease(path)
    with weighty.step(shared=True):
        assert weighty.held
        thread = entering(sharing, lambda: None)
        until(lambda: waiting(weighty) == [sharing.slot])
    weighty.release()
    thread.join(DEADLINE)


class Clock:
    """Stands still but for steps, which take 5 ms."""

    def __init__(self) -> None:
        self.now = 0

    def monotonic_ns(self) -> int:
        return self.now

    def step(self) -> None:
        self.now += 5 * MILLISECOND


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(lease_module, "time", clock)
    yield clock


@pytest.mark.parametrize("quantum", [0, 12 * MILLISECOND])
def test_steps_are_shared_by_weight(path: Path, clock: Clock, quantum: int) -> None:
    light, heavy = CoreLease(path, 1.0, quantum), CoreLease(path, 3.0, quantum)
    num_steps = {light.slot: 0, heavy.slot: 0}
    over = threading.Event()

    def compute(own: CoreLease) -> None:
        while not over.is_set():
            with own:
                until(lambda: over.is_set() or bool(waiting(own)))  # the other one is never idle
                clock.step()
                num_steps[own.slot] += 1
                if sum(num_steps.values()) == 400:
                    over.set()
        own.release()

    threads = [threading.Thread(target=compute, args=(one,), daemon=True) for one in (light, heavy)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert abs(num_steps[light.slot] - 100) <= 5


def test_idleness_earns_no_credit(path: Path, clock: Clock) -> None:
    busy, idle = CoreLease(path), CoreLease(path)
    for _ in range(100):
        with busy:
            clock.step()
    with idle:
        pass
    assert idle.virtual_time >= busy.virtual_time - 5 * MILLISECOND


def test_a_pause_of_the_whole_machine_is_not_charged_as_computing(path: Path, clock: Clock) -> None:
    lease = CoreLease(path)
    with lease:
        clock.now += 3600 * 1_000_000_000
    assert lease.virtual_time <= 1_000_000_000


# ---- files that are no good -------------------------------------------------------------------


def damaged(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def of_version_two(path: Path) -> None:
    CoreLease(path)
    with path.open("r+b") as file:
        file.seek(8)
        file.write((2).to_bytes(8, "little"))


def with_an_absurd_clock(path: Path) -> None:
    CoreLease(path)
    with path.open("r+b") as file:
        file.seek(128)
        file.write(b"\xff" * 8)


SIZE = lease_module._NUM_WORDS * 8


@pytest.mark.parametrize(
    "spoil",
    [damaged(b"my notes"), damaged(os.urandom(SIZE)), damaged(bytes(SIZE + 8)), of_version_two, with_an_absurd_clock],
    ids=["another file", "noise", "too long", "another version", "an absurd clock"],
)
def test_a_file_that_is_no_lease_is_refused_and_left_alone(path: Path, spoil: Callable[[Path], object]) -> None:
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(LeaseUnusable, match=str(path)):
        CoreLease(path)
    assert path.read_bytes() == before


def test_a_worker_without_a_usable_lease_serves_without_turns(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(b"my notes")
    for bad in (path, tmp_path, tmp_path / "absent" / "turns"):
        caplog.clear()
        assert isinstance(share_cores(WorkerConfig(path, "unix:x", core_lease=bad)), OwnCores)
        assert str(bad) in caplog.text


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        CoreLease(path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_whose_maker_died_early_is_made_again(path: Path) -> None:
    path.write_bytes(bytes(SIZE))
    with CoreLease(path):
        pass


def test_damage_after_the_start_stops_nobody(path: Path) -> None:
    lease = CoreLease(path)
    lease._words[8] = 0xFFFFFFFF_FFFFFF_FE
    with lease:
        assert lease.held
    assert not lease.held


def test_more_workers_than_places_are_refused_with_the_number(path: Path) -> None:
    places = [CoreLease(path) for _ in range(NUM_SLOTS)]
    assert len({place.slot for place in places}) == NUM_SLOTS
    with pytest.raises(LeaseUnusable, match=str(NUM_SLOTS)):
        CoreLease(path)


def test_the_file_is_private_and_the_hosts_is_this_users(path: Path) -> None:
    CoreLease(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert str(os.geteuid()) in host_path().name
