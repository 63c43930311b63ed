"""Guesses at what comes next in sequences, computed together with the tokens they follow.

The engine asks a Drafter before a step; the sampler then chooses position by position as if there were no guesses
(speculative decoding; Leviathan, Kalman and Matias 2023, for a greedy draft). There are two: lookup.py looks into the
text, draft_model.py asks a small model. Invariant: a guess decides what is computed together, never what comes of it.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from worker.sequence import Sequence, Tokens

MOST_DRAFTING = 3  # sequences that run beside each other: with more of them, steps are full enough without guesses
NOTHING: Tokens = np.zeros(0, np.int32)
NOTHING.flags.writeable = False
VERIFICATION = 0.4  # of a step: what computing one guess behind a token costs

_FIRST_RATE = 0.5
_MARGIN = 0.1  # by which guesses must be worth their price to be trusted again
_PAUSE, _LONGEST_PAUSE = 16, 512  # tokens


class Drafter(Protocol):
    """Guesses for sequences that lack one token."""

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, Tokens]:
        """Up to so many tokens that may follow each; none for those that it has no good guess for."""

    def observe(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        """So many of its guesses were computed behind a sequence, and so many of them were right."""

    def worth(self, sequence: Sequence) -> float:
        """What a guess brings, in tokens, less what it costs, by how the latest ones went."""

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""


class Acceptance:
    """How guessing goes in one sequence, and how much of it that is worth."""

    __slots__ = ("_fade", "_pause", "_price", "_rate", "_wakes")

    def __init__(self, price: float = VERIFICATION, fade: float = 0.6) -> None:
        """`price`: of a guess, in steps without guesses. `fade`: what the past counts after one more step."""
        self._price, self._fade = price, fade
        self._rate = max(_FIRST_RATE, min(price + _MARGIN, 1.0))
        self._pause = _PAUSE
        self._wakes = 0  # number of tokens from which on to guess

    @property
    def worth(self) -> float:
        return self._rate - self._price

    def count(self, sequence: Sequence, most: int) -> int:
        """How many tokens to guess, at most `most`: fewer where guesses were often wrong."""
        if most <= 0 or sequence.num_completion_tokens < self._wakes:
            return 0
        return max(1, round(self._rate * most))

    def observe(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        self._rate = self._fade * self._rate + (1 - self._fade) * num_accepted / num_drafted
        if self._rate < self._price:
            self._wakes = sequence.num_completion_tokens + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._rate = self._price
        elif self._rate > self._price + _MARGIN:
            self._pause = _PAUSE


class Alternatives:
    """Two drafters: a sequence is guessed by the one that does better there, or by the other where that one cannot."""

    def __init__(self, ready: Drafter, slow: Drafter) -> None:
        """`ready` guesses at no cost, `slow` is asked only where it is wanted."""
        self._ready, self._slow = ready, slow
        self._authors: dict[Sequence, Drafter] = {}  # of the latest guesses

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, Tokens]:
        found = self._ready.propose(wanted)
        better = {s for s, guesses in found.items() if guesses.size and self._ready.worth(s) >= self._slow.worth(s)}
        thought = self._slow.propose({s: most for s, most in wanted.items() if s not in better})
        thought = {s: guesses for s, guesses in thought.items() if guesses.size}
        self._authors.update((s, self._slow if s in thought else self._ready) for s in wanted)
        return found | thought

    def observe(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        self._authors[sequence].observe(sequence, num_drafted, num_accepted)

    def worth(self, sequence: Sequence) -> float:
        return max(self._ready.worth(sequence), self._slow.worth(sequence))

    def forget(self, sequence: Sequence) -> None:
        self._authors.pop(sequence, None)
        self._ready.forget(sequence)
        self._slow.forget(sequence)
