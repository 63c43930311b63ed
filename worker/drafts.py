"""What may come next in a sequence: what followed when its last tokens stood there before.

The engine asks before a step. Prompt lookup decoding (Saxena 2023): a step computes a draft together with the token it
follows, and the sampler chooses position by position as if there were none. It pays where a text quotes or repeats what
is in view. Pure. Invariant: a draft decides what is computed together, never what comes of it.
"""

import numpy as np

from worker.sequence import Sequence, Tokens

MOST_DRAFTING = 3  # sequences that run beside each other: with more of them, steps are full enough without guesses
NOTHING: Tokens = np.zeros(0, np.int32)
NOTHING.flags.writeable = False

_MATCH = 3  # last tokens that must have occurred before
_NOT_INDEXED = _MATCH - 1  # ends up to here have too little before them
_FIRST_RATE = 0.5
_RATE_FADE = 0.6
_LEAST_RATE = 0.4  # below it, guesses cost more than they save
_PAUSE, _LONGEST_PAUSE = 16, 512  # tokens


class Drafter:
    """Owns what is known about the repetitions in one sequence, and how well guessing went."""

    __slots__ = ("_distance", "_ends", "_num_discarded", "_num_indexed", "_pause", "_rate", "_wakes",
                 "num_accepted", "num_drafted")  # fmt: skip

    def __init__(self) -> None:
        self.num_drafted = self.num_accepted = 0  # since the beginning
        self._rate = _FIRST_RATE  # of acceptance, the latest counting most
        self._pause = _PAUSE
        self._wakes = 0  # number of tokens from which on it guesses
        self._num_discarded = 0  # of the sequence's tokens, when the index was begun
        self._num_indexed = _NOT_INDEXED
        self._ends: dict[tuple[int, int, int], int] = {}  # the latest of each
        self._distance = 0  # from a repetition to what it repeats

    def propose(self, sequence: Sequence, most: int) -> Tokens:
        """Up to `most` tokens that may follow; fewer where guesses were often wrong."""
        num_tokens = sequence.num_tokens
        if most <= 0 or num_tokens <= _MATCH or sequence.num_completion_tokens < self._wakes:
            return NOTHING
        self._index(sequence)
        distance = self._repeats_after(sequence)
        if not distance:
            return NOTHING
        count = max(1, round(self._rate * most))
        first = num_tokens - distance
        return np.resize(sequence.tokens[first : min(first + count, num_tokens)], count)  # a short period goes on

    def observe(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        """So many guesses were computed, and so many of them were right."""
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted
        self._rate = _RATE_FADE * self._rate + (1 - _RATE_FADE) * num_accepted / num_drafted
        if self._rate < _LEAST_RATE:
            self._wakes = sequence.num_completion_tokens + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._rate = _LEAST_RATE
        elif self._rate > _FIRST_RATE:
            self._pause = _PAUSE

    def _repeats_after(self, sequence: Sequence) -> int:
        """How far back the last tokens stand a second time; 0: nowhere.

        The place found before stays the one as long as it fits: in a long quotation it is the right one of many.
        """
        tokens, num_tokens = sequence.tokens, sequence.num_tokens
        last = _ending_at(tokens, num_tokens)
        if not self._distance or _ending_at(tokens, num_tokens - self._distance) != last:
            end = self._ends.get(last)
            self._distance = num_tokens - end if end else 0
        return self._distance

    def _index(self, sequence: Sequence) -> None:
        """Notes where tokens stand, up to those that end before the last one."""
        if sequence.num_discarded != self._num_discarded:
            self._num_discarded, self._num_indexed, self._distance = sequence.num_discarded, _NOT_INDEXED, 0
            self._ends.clear()
        begin, end = self._num_indexed, sequence.num_tokens - 1
        tokens = sequence.tokens[begin - _MATCH + 1 : end].tolist()
        groups = zip(tokens, tokens[1:], tokens[2:], strict=False)
        self._ends.update(zip(groups, range(begin + 1, end + 1), strict=True))
        self._num_indexed = end


def _ending_at(tokens: Tokens, end: int) -> tuple[int, int, int]:
    first, second, third = tokens[end - _MATCH : end].tolist()
    return first, second, third
