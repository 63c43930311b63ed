"""Which sequence computes how many tokens now. The engine asks it once per step; pure: no clock, no logging, no I/O.

A step has a budget of tokens. Sequences that lack one token come first, so that a long prompt never keeps a running
answer waiting; then prompts being read, oldest first; then new ones as long as places and blocks last. When blocks run
out, the youngest running sequence gives all of its own back and queues again.

Invariants: whoever runs came before whoever waits, and the oldest running sequence can always go on, because one
sequence never needs more blocks than there are: so every step with work in it computes something.
"""

from collections import deque
from dataclasses import dataclass, field

from worker.errors import Overloaded
from worker.kv_cache import BlockPool
from worker.sequence import Sequence


@dataclass(slots=True)
class Batch:
    """One step's work: sequences[i] computes counts[i] tokens from its num_computed on."""

    sequences: list[Sequence] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)  # those of `sequences` that did not run before

    def add(self, sequence: Sequence, count: int) -> None:
        self.sequences.append(sequence)
        self.counts.append(count)


class Scheduler:
    """Owns the waiting line and the running sequences."""

    def __init__(self, pool: BlockPool, *, max_running: int, max_waiting: int, step_tokens: int) -> None:
        self._pool = pool
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._step_tokens = step_tokens
        self._waiting: deque[Sequence] = deque()  # oldest first
        self._running: list[Sequence] = []  # oldest first
        self._refused_with = -1  # blocks available when the first in line last found too few

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Puts a sequence at the end of the line. Raises Overloaded."""
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(f"all {self._max_running} places are taken and {self._max_waiting} requests wait already")
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence, *, forget: bool = False) -> None:
        """Ends a sequence in whatever state it is; one that is not here is left alone."""
        if sequence in self._running:
            self._running.remove(sequence)
            self._pool.release(sequence, forget=forget)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        self._refused_with = -1

    def schedule(self) -> Batch:
        """Chooses the next step's work and gives it its blocks."""
        batch = Batch()
        budget = self._advance(batch, self._step_tokens, lacking_one=True)
        budget = self._advance(batch, budget, lacking_one=False)
        while budget > 0 and self._can_admit():
            budget -= self._admit(batch, budget)
        return batch

    def commit(self, batch: Batch) -> list[Sequence]:
        """Notes that the batch was computed. Returns the sequences, in its order, that now lack their next token."""
        caught_up = []
        for sequence, count in zip(batch.sequences, batch.counts, strict=True):
            sequence.num_computed += count
            self._pool.publish(sequence)
            if sequence.num_computed == sequence.num_tokens:
                caught_up.append(sequence)
        return caught_up

    def _advance(self, batch: Batch, budget: int, *, lacking_one: bool) -> int:
        """Schedules the running sequences that lack one token, or several; returns what is left of the budget."""
        index = 0
        while index < len(self._running) and budget > 0:  # preemption shortens the list, behind the index
            sequence = self._running[index]
            index += 1
            missing = sequence.num_tokens - sequence.num_computed
            if (missing == 1) is not lacking_one:
                continue
            count = self._make_room(sequence, min(missing, budget), batch)
            if count > 0:
                self._pool.grow(sequence, sequence.num_computed + count)
                batch.add(sequence, count)
                budget -= count
        return budget

    def _make_room(self, sequence: Sequence, count: int, batch: Batch) -> int:
        """How many of `count` tokens find blocks, once younger sequences outside this step have given up theirs."""
        while True:
            room = self._pool.room(sequence) - sequence.num_computed
            youngest = self._running[-1]
            if room >= count or youngest is sequence or youngest in batch.sequences:
                return min(room, count)
            self._preempt(youngest)

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._pool.release(sequence)
        self._waiting.appendleft(sequence)
        self._refused_with = -1

    def _can_admit(self) -> bool:
        return bool(self._waiting) and len(self._running) < self._max_running

    def _admit(self, batch: Batch, budget: int) -> int:
        """Lets the first in line run if all of its tokens find blocks; returns how many tokens that adds to the step,
        or the whole budget if it must wait, and with it everybody behind it."""
        sequence = self._waiting[0]
        available = self._pool.num_available
        if available <= self._refused_with:
            return budget
        matched = self._pool.match(sequence)
        num_taken = self._pool.num_needed(sequence.num_tokens) - len(matched) + self._pool.num_unused(matched)
        # A block to spare for everyone who runs, or the newcomer would be preempted as soon as they grow.
        if self._running and num_taken + len(self._running) > available:
            self._refused_with = available
            return budget
        self._refused_with = -1
        self._run(self._waiting.popleft(), matched, batch)
        count = min(sequence.num_tokens - sequence.num_computed, budget)
        self._pool.grow(sequence, sequence.num_computed + count)
        batch.add(sequence, count)
        return count

    def _run(self, sequence: Sequence, matched: list[int], batch: Batch) -> None:
        self._pool.adopt(sequence, matched)
        self._running.append(sequence)
        batch.admitted.append(sequence)
        if sequence.num_cached < 0:
            sequence.num_cached = min(sequence.num_computed, sequence.num_prompt_tokens)
