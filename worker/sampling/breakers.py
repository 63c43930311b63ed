"""DRY's sequence breakers: strings at which a repetition begins anew, found in a vocabulary's tokens.

worker/prompt.py keeps one BreakerReader for its vocabulary; penalties.py asks what it has read. A breaker may be part
of a token, or begin in one and go on in others: then those, as the rest of the string is tokenised, are its tail.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

DEFAULT_BREAKERS = ("\n", ":", '"', "*")
MAX_BREAKERS = 64
MAX_BREAKER_BYTES = 40
_LONGEST_TAIL = 20
_MOST_KEPT = 8

_Tail = tuple[int, ...]


class Breakers:
    """What some breakers are in a vocabulary."""

    def __init__(self, tails: Mapping[int, Collection[_Tail]]) -> None:
        """tails[token]: the tokens that must follow it, in each way that it begins a breaker; () if it holds one."""
        self._tails = tails
        self._heads = np.array(list(tails), np.int32)

    def tokens_since(self, window: npt.NDArray[np.int32]) -> int:
        """How many tokens follow the last breaker; all there are if there is none."""
        if not self._tails:
            return len(window)
        for begin in np.flatnonzero(np.isin(window, self._heads))[::-1].tolist():
            token, *following = window[begin : begin + 1 + _LONGEST_TAIL].tolist()
            matching = [len(tail) for tail in self._tails[token] if tuple(following[: len(tail)]) == tail]
            if matching:
                return len(window) - 1 - int(begin) - max(matching)
        return len(window)

    def breaks_alone(self, token: int) -> bool:
        return () in self._tails.get(token, ())


NO_BREAKERS = Breakers({})


class BreakerReader:
    """Finds breakers in a vocabulary. Any thread may use it."""

    def __init__(
        self, vocab_size: int, piece: Callable[[int], bytes], tokenize: Callable[[str], Sequence[int]]
    ) -> None:
        self._vocab_size = vocab_size
        self._piece, self._tokenize = piece, tokenize
        self._read = lru_cache(_MOST_KEPT)(self._find)

    def read(self, strings: Sequence[str]) -> Breakers:
        """Takes milliseconds for strings that were not read lately, and longer the first time."""
        return self._read(tuple(strings))

    def _find(self, strings: tuple[str, ...]) -> Breakers:
        tails: dict[int, set[_Tail]] = {}
        for string in strings:
            whole = string.encode()
            holding = set(self._holding(whole).tolist())
            for token in holding:
                tails.setdefault(token, set()).add(())
            for num in range(1, len(whole)):
                if heads := set(self._ending_with(whole[:num]).tolist()) - holding:
                    tail = tuple(self._tokenize(whole[num:].decode(errors="ignore"))[:_LONGEST_TAIL])
                    for token in heads:
                        tails.setdefault(token, set()).add(tail)
        return Breakers(tails)

    @cached_property
    def _pieces(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """The bytes of all pieces, one behind the other, and where each ends."""
        pieces = [self._piece(token) for token in range(self._vocab_size)]
        return np.frombuffer(b"".join(pieces), np.uint8), np.cumsum([len(piece) for piece in pieces])

    def _holding(self, part: bytes) -> npt.NDArray[np.int64]:
        """The tokens whose piece has `part` in it."""
        text, ends = self._pieces
        starts = np.arange(text.size - len(part) + 1)
        for offset, byte in enumerate(part):
            starts = starts[text[starts + offset] == byte]
        tokens = ends.searchsorted(starts, "right")
        return tokens[starts + len(part) <= ends[tokens]]

    def _ending_with(self, part: bytes) -> npt.NDArray[np.int64]:
        text, ends = self._pieces
        tokens = np.flatnonzero(np.diff(ends, prepend=0) >= len(part))
        for offset, byte in enumerate(part):
            tokens = tokens[text[ends[tokens] - len(part) + offset] == byte]
        return tokens
