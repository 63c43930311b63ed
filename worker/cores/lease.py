"""The core lease: workers of one host compute in turns, each on all cores, instead of all at once.

Threads of two workers on the same cores preempt each other at every barrier, and both crawl. So a worker computes a
step only while it holds the lease, a word in a small file that all of them map; engine.py takes it around each step.

Why a word, compare-and-swap and futexes: a lock of the kernel (flock, a robust mutex) is freed when its holder dies but
not when it is stopped, and goes to whoever is quickest; a process that grants turns would stand in the way of every
step. Here taking a free lease is one instruction, whoever passes it on chooses the next by turns.py and wakes nobody
else, and whoever waits looks now and then whether the holder is still at work.

Steps that read no prompt wait for memory more than for cores, and lose more by taking turns than by being computed side
by side. So they are shared: while nobody has the lease and nobody waits for it they are computed without. One that is
not shared takes the free lease at once, beside at most one shared step of each worker; from then on all take turns,
until only such are left that would share, who go on together.

    file, lines of 64 bytes    [ magic, version | turn | clock | slot 0: owner, virtual time, shares | slot 1 ... )

Invariants: the lease changes hands by compare-and-swap of the turn alone; a slot's line is written by its owner alone.
A worker that was taken for lost and goes on finds the turn to be another's, and queues again; what it computes
meanwhile costs the others speed and nothing more.
"""

import ctypes
import fcntl
import mmap
import os
import stat
import time
from pathlib import Path
from typing import Protocol, Self

from worker.cores import turns
from worker.cores.atomic import compare_and_swap
from worker.cores.futex import Futex
from worker.cores.liveness import can_compute, exists, own_identity
from worker.cores.turns import NOBODY, NUM_SLOTS
from worker.errors import WorkerError

QUANTUM = 5_000_000  # nanoseconds of virtual time that a worker may get ahead of one that waits
LEAST_WEIGHT, USUAL_WEIGHT, MOST_WEIGHT = 0.01, 1.0, 100.0
_LOOK_SECONDS = 0.2  # between looks at a holder that others wait for
_LONGEST_CHARGE = 1_000_000_000  # nanoseconds; beyond it, all were suspended together

# Places in the file, in words of eight bytes.
_MAGIC, _VERSION, _TURN, _CLOCK, _SLOTS = 0, 1, 8, 16, 24
_LINE, _OWNER, _VIRTUAL_TIME, _SHARES = 8, 0, 1, 2
_NUM_WORDS = _SLOTS + NUM_SLOTS * _LINE
_HEADER = (int.from_bytes(b"turnfile", "little"), 1)
_MOST_CLOCK = 1 << 60  # nanoseconds: decades


class LeaseUnusable(WorkerError):
    """The file is not a lease, or has no place left."""


class Cores(Protocol):
    """What a step is computed within: `with cores.step(shared=False): ...`. One thread uses it."""

    def step(self, *, shared: bool) -> Self:
        """For the step that comes next. A shared one may be computed beside other workers' shared ones."""

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...

    def release(self) -> None:
        """No step follows for now."""


class OwnCores:
    """Cores that are not shared."""

    def step(self, *, shared: bool) -> Self:
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def release(self) -> None:
        pass


class CoreLease:
    """One worker's place among those that share a file."""

    def __init__(self, path: Path, weight: float = USUAL_WEIGHT, quantum: int = QUANTUM) -> None:
        """Makes the file if there is none; compare_and_swap must be compiled. Raises LeaseUnusable, OSError."""
        self._words, self._address = _map(path)
        self._futex = Futex(self._address + _TURN * 8)
        self._weight, self._quantum = weight, quantum
        self._since = 0  # when that began which is not charged yet
        self.slot = self._claim(path)
        self._line = _SLOTS + self.slot * _LINE
        self._words[self._line + _VIRTUAL_TIME] = self._words[_CLOCK]
        self._words[self._line + _SHARES] = False
        self._forget_former_owner()

    def step(self, *, shared: bool) -> Self:
        """A worker whose weight is not the usual one shares no step: its part of the cores is what turns give it."""
        self._words[self._line + _SHARES] = shared and self._weight == USUAL_WEIGHT
        return self

    def __enter__(self) -> None:
        """Returns when this worker may compute."""
        if not self.held:
            self._words[self._line + _VIRTUAL_TIME] = max(self.virtual_time, self._words[_CLOCK])
            self._queue()
            self._since = time.monotonic_ns()
        self._words[_CLOCK] = max(self._words[_CLOCK], self.virtual_time)

    def __exit__(self, *_: object) -> None:
        """Frees the lease, passes it on, or keeps it for the next step if those who wait are hardly behind."""
        self._pass_on(self._quantum)

    def release(self) -> None:
        """Frees the lease or passes it on: no step follows for now."""
        self._pass_on(0, keep=False)

    @property
    def held(self) -> bool:
        return turns.holder(self._words[_TURN]) == self.slot

    @property
    def virtual_time(self) -> int:
        """Nanoseconds computed, divided by the weight; of a clock that all workers share."""
        return self._words[self._line + _VIRTUAL_TIME]

    def _queue(self) -> None:
        while (holder := turns.holder(turn := self._words[_TURN])) != self.slot:
            if turns.is_open(turn) and self._would_share(self.slot):
                return
            if holder == NOBODY:
                self._swap(turn, turns.handed_to(turn, self.slot))
            elif not turns.is_waiting(turn, self.slot):
                self._swap(turn, turns.with_waiting(turn, self.slot))
            elif not self._futex.wait(turn, self.slot, _LOOK_SECONDS):
                self._recover(turn)

    def _pass_on(self, quantum: int, keep: bool = True) -> None:
        """Nothing happens if the lease was taken away."""
        if self.held:
            self._charge()
        while turns.holder(turn := self._words[_TURN]) == self.slot:
            waiting = turns.waiting(turn)
            if waiting and all(map(self._would_share, waiting if not keep else (*waiting, self.slot))):
                if self._swap(turn, turns.opened(turn)):
                    self._futex.wake(*waiting)
                continue
            behind = self._virtual_times(waiting)
            if keep and turns.goes_on(self.virtual_time, behind, quantum):
                return
            self._hand(turn, turns.furthest_behind(behind))

    def _recover(self, turn: int) -> None:
        """Takes the lease from a holder that died or is stopped; whoever waits and is so too waits no more."""
        if self._can_compute(turns.holder(turn)):
            return
        new, heirs = turn, []
        for slot in turns.waiting(turn):
            if self._can_compute(slot):
                heirs.append(slot)
            else:
                new = turns.without_waiting(new, slot)
        self._hand(turn, turns.furthest_behind(self._virtual_times(heirs)), new)

    def _hand(self, turn: int, heir: int, new: int | None = None) -> None:
        if self._swap(turn, turns.handed_to(turn if new is None else new, heir)) and heir not in (NOBODY, self.slot):
            self._futex.wake(heir)

    def _swap(self, turn: int, new: int) -> bool:
        return bool(compare_and_swap(self._address + _TURN * 8, turn, new))

    def _charge(self) -> None:
        now = time.monotonic_ns()
        spent = min(now - self._since, _LONGEST_CHARGE)
        self._words[self._line + _VIRTUAL_TIME] = turns.charged(self.virtual_time, spent, self._weight)
        self._since = now

    def _virtual_times(self, slots: list[int]) -> dict[int, int]:
        return {slot: self._words[_SLOTS + slot * _LINE + _VIRTUAL_TIME] for slot in slots}

    def _would_share(self, slot: int) -> bool:
        return bool(self._words[_SLOTS + slot * _LINE + _SHARES])

    def _can_compute(self, slot: int) -> bool:
        return slot < NUM_SLOTS and can_compute(self._words[_SLOTS + slot * _LINE + _OWNER])

    def _claim(self, path: Path) -> int:
        """A slot that has no owner, or one that has died."""
        identity = own_identity()
        for slot in range(NUM_SLOTS):
            place = _SLOTS + slot * _LINE + _OWNER
            owner = self._words[place]
            if not exists(owner) and compare_and_swap(self._address + place * 8, owner, identity):
                return slot
        raise LeaseUnusable(f"{path}: {NUM_SLOTS} workers share the cores already")

    def _forget_former_owner(self) -> None:
        """Leaves the line, and passes the lease on, if the slot's last owner died in it."""
        while turns.is_waiting(turn := self._words[_TURN], self.slot):
            self._swap(turn, turns.without_waiting(turn, self.slot))
        self.release()


def host_path() -> Path:
    """The file of all workers of this user on this host that see each other's processes."""
    namespace = os.stat("/proc/self/ns/pid").st_ino
    return Path(f"/dev/shm/corral-turns-{os.geteuid()}-{namespace}")  # noqa: S108 (checked when it is opened)


def _map(path: Path) -> tuple[memoryview, int]:
    """The file's words and their address; they are checked, or written into a new file. Raises LeaseUnusable."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        info = os.fstat(file)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
            raise LeaseUnusable(f"{path}: not a file of this user")
        if info.st_size == 0:
            os.ftruncate(file, _NUM_WORDS * 8)
        elif info.st_size != _NUM_WORDS * 8:
            raise LeaseUnusable(f"{path}: {info.st_size} bytes, expected {_NUM_WORDS * 8}: not a core lease")
        memory = mmap.mmap(file, _NUM_WORDS * 8)
        words = memoryview(memory).cast("Q")
        if words[_MAGIC] == 0:  # new, or its maker died at this point
            words[_MAGIC], words[_VERSION] = _HEADER
        if (words[_MAGIC], words[_VERSION]) != _HEADER or words[_CLOCK] > _MOST_CLOCK:
            raise LeaseUnusable(f"{path}: not a core lease of this version, or damaged; remove it")
        return words, ctypes.addressof(ctypes.c_char.from_buffer(memory))
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough: the mapping keeps the file open
        os.close(file)
