"""What the engine knows of guessing: whom to guess for, how long that took, and what came of it.

It asks before each step and tells afterwards how many were right. Invariant: a drafter that fails is never asked again,
and no answer suffers from it.
"""

import logging
import time
from collections.abc import Sequence as Items

from worker.context import Capacity, num_draftable
from worker.drafting.drafts import MOST_DRAFTING, Drafter
from worker.generation import Generation
from worker.sequence import Sequence, Tokens
from worker.stats import Counters

log = logging.getLogger("worker.drafting")


class Guesses:
    """Owns the drafter."""

    def __init__(self, drafter: Drafter, capacity: Capacity, counters: Counters) -> None:
        self._drafter = drafter
        self._capacity = capacity
        self._counters = counters
        self._most_running = MOST_DRAFTING if capacity.max_drafts else 0
        self.seconds = 0.0  # that the latest ones took to make

    def make(self, running: Items[Sequence]) -> dict[Sequence, Tokens]:
        """Tokens that may follow each of those who lack one, while few run."""
        if len(running) > self._most_running:
            self.seconds = 0.0
            return {}
        began = time.perf_counter()
        wanted = {s: num_draftable(s, self._capacity) for s in running if s.num_uncomputed == 1}
        try:
            return self._drafter.propose(wanted)
        except Exception:
            log.exception("guessing ahead failed; from now on, nothing is guessed")
            self._most_running = 0
            return {}
        finally:
            self.seconds = time.perf_counter() - began

    def observe(self, generation: Generation, num_drafted: int, num_accepted: int) -> None:
        """So many were computed behind a generation's last token, and so many of them were right."""
        generation.num_drafted += num_drafted
        generation.num_accepted += num_accepted
        self._drafter.observe(generation.sequence, num_drafted, num_accepted)
        self._counters.count_drafts(num_drafted, num_accepted)

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        self._drafter.forget(sequence)
