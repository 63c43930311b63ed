"""Which sequence computes how many tokens now. The engine asks it once per step; pure: no clock, no logging, no I/O.

A step has a budget of tokens and a target of seconds. Sequences that lack one token come first, so that a long prompt
never keeps a running answer waiting; then prompts being read, oldest first, in chunks that keep the step under its
target, or, where a step without them takes more than half of that, under twice as long as that one; then new ones as
long as places and blocks last. Where no answer is running, the target is longer: only newcomers and cancellations wait
for the step. When blocks run out, the youngest running sequence gives all of its own back and goes first in the line.
Who is first in line and of a higher priority than one that runs takes its place in the same way, if there is no other.
Who may run at one place only is set aside while that is taken, and holds up nobody.

Who is first in line waits while a running sequence is yet to compute the next block of a prefix that both share, so
that requests that come together compute it once. So do those behind it; it costs them no more than what is left of
the step in which that one is read, because prompts are read one after the other, in chunks that fill the steps.

Invariant: the oldest running sequence can always go on, because one sequence never needs more blocks than there are,
and a step that reads prompts at all reads at least LEAST_CHUNK tokens: so a step with work in it computes something.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass

from worker.batch import Batch
from worker.cache.kv_cache import BlockPool
from worker.errors import Overloaded
from worker.sequence import NO_PLACE, Sequence, Tokens
from worker.step_cost import StepCost
from worker.waiting_line import WaitingLine, outranked

LEAST_CHUNK = 4  # tokens of a prompt, however long that takes
_STRETCH = 2.0  # how much longer a step may take for the prompts in it, even beyond the target
_UNHURRIED = 4.0  # how much longer the target is in a step that holds up no running answer
_FIRST_STAY = 1.0  # seconds that a request is thought to run before any has ended
_STAY_FADE = 0.9


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may run and wait."""

    max_running: int
    max_waiting: int
    step_tokens: int
    step_seconds: float  # what a step that reads prompts should take, at most, while answers are running


class Scheduler:
    """Owns the waiting line and the running sequences."""

    def __init__(self, pool: BlockPool, limits: Limits) -> None:
        self._pool = pool
        self._limits = limits
        self._line = WaitingLine()
        self._running: list[Sequence] = []  # oldest first
        self._places = set(range(limits.max_running))  # those that are free
        self._cost = StepCost()
        self._mean_stay = _FIRST_STAY
        self._refused_with = -1  # blocks available when the first in line last found too few

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._line)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._line)

    @property
    def running(self) -> Items[Sequence]:
        """Oldest first."""
        return self._running

    @property
    def expected_wait(self) -> float:
        """Seconds until one who comes now would run, by Little's law."""
        ahead = len(self._line) + (0 if self._places else 1)
        return ahead * self._mean_stay / self._limits.max_running

    def add(self, sequence: Sequence) -> None:
        """Puts a sequence into the line. Raises Overloaded."""
        limits = self._limits
        if len(self._line) >= limits.max_waiting:
            wait = self.expected_wait
            raise Overloaded(
                f"all {limits.max_running} places are taken and {limits.max_waiting} requests wait already; "
                f"the last of them for about {wait:.0f} s",
                wait,
            )
        self._line.add(sequence)
        self._refused_with = -1

    def remove(self, sequence: Sequence, *, forget: bool = False, stayed: float | None = None) -> None:
        """Ends a sequence in whatever state it is; one that is not here is left alone.

        `stayed`: the seconds from its beginning to its end, if it came to one; they tell how long others will wait.
        """
        if sequence in self._running:
            self._stop(sequence, forget=forget)
            self._line.leave(sequence)
        elif sequence in self._line:
            self._line.remove(sequence)
        if stayed is not None:
            self._mean_stay = _STAY_FADE * self._mean_stay + (1 - _STAY_FADE) * stayed
        self._refused_with = -1

    def shift(self, sequence: Sequence, num_kept: int, num_discarded: int) -> None:
        """Takes tokens out of a running sequence. What follows them is computed anew, before anybody in line runs."""
        self._preempt(sequence)
        sequence.discard(num_kept, num_discarded)

    def schedule(self, drafts: Mapping[Sequence, Tokens] = {}, spent: float = 0.0) -> Batch:
        """Chooses the next step's work and gives it its blocks.

        `drafts`: guesses at what follows a running sequence that lacks one token, computed as far as there is room.
        `spent`: seconds of the step that are over, for having made them.
        """
        self._make_way()
        batch = Batch()
        self._advance(batch, lacking_one=True)
        for sequence, guesses in drafts.items():
            self._try(batch, sequence, guesses)
        target = self._limits.step_seconds * (1 if batch.sequences else _UNHURRIED) - spent
        batch.seconds = max(target, _STRETCH * self._cost.seconds(batch.work))
        self._advance(batch, lacking_one=False)
        while self._places and (first := self._first()) is not None and self._admit(first, batch):
            pass
        return batch

    def commit(self, batch: Batch, seconds: float) -> list[Sequence]:
        """Notes that the batch was computed, in so many seconds.

        Returns the sequences, in its order, that now lack their next token. Their drafts do not count: see `accept`.
        """
        self._cost.observe(batch.work, seconds)
        caught_up = []
        for sequence, count in zip(batch.sequences, batch.counts, strict=True):
            sequence.num_computed += count
            self._pool.publish(sequence)
            if sequence.num_computed == sequence.num_tokens:
                self._line.charge(sequence, 1)
                caught_up.append(sequence)
        return caught_up

    def accept(self, sequence: Sequence) -> None:
        """Notes that a sequence's newest token is the draft that was computed behind the others."""
        sequence.num_computed += 1
        self._pool.publish(sequence)
        self._line.charge(sequence, 1)

    def _try(self, batch: Batch, sequence: Sequence, guesses: Tokens) -> None:
        """Adds drafts to the step, as far as that leaves a token and a block for everybody who runs."""
        if sequence not in batch.sequences:
            return
        num_tokens = self._limits.step_tokens - batch.num_drafts - len(self._running)
        num_blocks = max(self._pool.num_available - len(self._running), 0) + sequence.num_blocks
        count = min(guesses.size, num_tokens, num_blocks * self._pool.block_size - sequence.num_tokens)
        if count > 0:
            self._pool.grow(sequence, sequence.num_tokens + count)
            batch.add_drafts(sequence, guesses[:count])

    def _advance(self, batch: Batch, *, lacking_one: bool) -> None:
        """Schedules the running sequences that lack one token, or several."""
        index = 0
        while index < len(self._running):  # preemption shortens the list, behind the index
            sequence = self._running[index]
            index += 1
            if (sequence.num_uncomputed == 1) is not lacking_one:
                continue
            count = self._chunk(sequence.num_uncomputed, sequence.num_computed, batch)
            count = self._make_room(sequence, min(count, sequence.most_per_step), batch)
            if count > 0:
                self._pool.grow(sequence, sequence.num_computed + count)
                batch.add(sequence, count)

    def _chunk(self, num_missing: int, position: int, batch: Batch) -> int:
        """How many of the tokens that a sequence lacks may join the step, as far as tokens and time go."""
        count = min(num_missing, self._limits.step_tokens - batch.work.num_tokens)
        if num_missing == 1:
            return count
        fitting = self._cost.fitting(batch.work, position, batch.seconds)
        return min(count, max(fitting, LEAST_CHUNK - batch.num_read, 0))

    def _make_room(self, sequence: Sequence, count: int, batch: Batch) -> int:
        """How many of `count` tokens find blocks, once younger sequences outside this step have given up theirs."""
        while True:
            room = self._pool.room(sequence) - sequence.num_computed
            youngest = self._running[-1]
            if room >= count or youngest is sequence or youngest in batch.sequences:
                return min(room, count)
            self._preempt(youngest)

    def _preempt(self, sequence: Sequence) -> None:
        self._interrupt(sequence)
        self._line.put_back(sequence)

    def _make_way(self) -> None:
        """Where who is first in line finds no place or too few blocks, a running sequence of a lower priority waits.

        So it does where who was set aside wants its place.
        """
        first = self._first()
        if first is not None and (not self._places or self._refused_with >= 0):
            self._make_way_for(first, self._running)
        for sequence in self._running.copy():
            aside = self._line.first_aside(sequence.place)
            if aside is not None:
                self._make_way_for(aside, [sequence])

    def _make_way_for(self, first: Sequence, running: Items[Sequence]) -> None:
        lower = outranked(first, running)
        if lower is not None:
            self._interrupt(lower)
            self._line.put_in_turn(lower)

    def _interrupt(self, sequence: Sequence) -> None:
        sequence.former_place = sequence.place
        self._stop(sequence)
        self._refused_with = -1

    def _stop(self, sequence: Sequence, *, forget: bool = False) -> None:
        self._running.remove(sequence)
        self._pool.release(sequence, forget=forget)
        self._places.add(sequence.place)
        self._line.call_back(sequence.place)
        sequence.place = NO_PLACE

    def _first(self) -> Sequence | None:
        """Whose turn it is, once those before it that want a place that is taken are set aside."""
        while (first := self._line.first()) is not None:
            if first.wanted_place == NO_PLACE or first.wanted_place in self._places:
                return first
            self._line.set_aside()
        return None

    def _admit(self, sequence: Sequence, batch: Batch) -> bool:
        """Lets the first in line run if all of its tokens find blocks and some of them time in this step.

        False: it must wait, and with it everybody behind it.
        """
        available = self._pool.num_available
        if available <= self._refused_with:
            return False
        matched = self._pool.match(sequence)
        if self._awaits_prefix(sequence, len(matched)):
            return False
        num_taken = self._pool.num_needed(sequence.num_tokens) - len(matched) + self._pool.num_unused(matched)
        # A block to spare for everyone who runs, or the newcomer would be preempted as soon as they grow. Where nobody
        # runs, too few are left only while others are held to be copied.
        if num_taken + len(self._running) > available:
            self._refused_with = available
            return False
        position = len(matched) * self._pool.block_size
        count = min(self._chunk(sequence.num_tokens - position, position, batch), sequence.most_per_step)
        if count <= 0:
            return False
        self._pool.adopt(sequence, matched)
        self._run(self._line.pop(), batch)
        self._pool.grow(sequence, sequence.num_computed + count)
        batch.add(sequence, count)
        return True

    def _awaits_prefix(self, sequence: Sequence, index: int) -> bool:
        """Whether the sequence could adopt its block `index`, if not yet, once a running one has computed it."""
        name = self._pool.reusable(sequence)[index : index + 1]
        end = (index + 1) * self._pool.block_size
        return bool(name) and any(
            other.shares_prefix and other.num_computed < end and other.digests[index : index + 1] == name
            for other in self._running
        )

    def _run(self, sequence: Sequence, batch: Batch) -> None:
        self._refused_with = -1
        sequence.place = self._place_for(sequence)
        self._places.remove(sequence.place)
        self._running.append(sequence)
        batch.admitted.append(sequence)
        if sequence.num_cached < 0:
            sequence.num_cached = min(sequence.num_computed, sequence.num_prompt_tokens)
            self._line.charge(sequence, sequence.num_uncomputed)

    def _place_for(self, sequence: Sequence) -> int:
        """The free one it wants, or where it ran before, or the lowest, of those that nobody wants if there are any."""
        for place in (sequence.wanted_place, sequence.former_place):
            if place in self._places:
                return place
        return min(self._places - self._line.wanted_places() or self._places)
