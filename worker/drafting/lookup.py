"""Guesses by lookup: what followed when a sequence's last tokens stood in it before.

A Drafter (drafts.py). Prompt lookup decoding (Saxena 2023): it costs next to nothing, and pays where a text quotes or
repeats what is in view. Pure.
"""

from collections.abc import Mapping

import numpy as np

from worker.drafting.drafts import NOTHING, Acceptance
from worker.sequence import Sequence, Tokens

_MATCH = 3  # last tokens that must have occurred before
_NOT_INDEXED = _MATCH - 1  # ends up to here have too little before them


class LookupDrafter:
    """Owns what is known about the repetitions in each sequence."""

    def __init__(self) -> None:
        self._texts: dict[Sequence, _Text] = {}

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, Tokens]:
        return {sequence: self._text(sequence).propose(sequence, most) for sequence, most in wanted.items()}

    def observe(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        self._text(sequence).acceptance.observe(sequence, num_drafted, num_accepted)

    def worth(self, sequence: Sequence) -> float:
        return self._text(sequence).acceptance.worth

    def forget(self, sequence: Sequence) -> None:
        self._texts.pop(sequence, None)

    def _text(self, sequence: Sequence) -> "_Text":
        return self._texts.setdefault(sequence, _Text())


class _Text:
    """The repetitions in one sequence, and how well guessing by them went."""

    __slots__ = ("_distance", "_ends", "_num_discarded", "_num_indexed", "acceptance")

    def __init__(self) -> None:
        self.acceptance = Acceptance()
        self._num_discarded = 0  # of the sequence's tokens, when the index was begun
        self._num_indexed = _NOT_INDEXED
        self._ends: dict[tuple[int, int, int], int] = {}  # the latest of each
        self._distance = 0  # from a repetition to what it repeats

    def propose(self, sequence: Sequence, most: int) -> Tokens:
        num_tokens = sequence.num_tokens
        count = self.acceptance.count(sequence, most) if num_tokens > _MATCH else 0
        if not count:
            return NOTHING
        self._index(sequence)
        distance = self._repeats_after(sequence)
        if not distance:
            return NOTHING
        first = num_tokens - distance
        return np.resize(sequence.tokens[first : min(first + count, num_tokens)], count)  # a short period goes on

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
