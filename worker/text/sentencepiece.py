"""SentencePiece by score: text -> ids, for `tokenizer.ggml.model = llama`.

Called by tokenizer.py with stretches of text that hold no special tokens, spaces already written as ▁. The two
neighbours whose union is the best-scored token are joined, again and again, the leftmost first among equals; what is
no token in the end becomes bytes. This is llama.cpp's algorithm (a queue of pairs over a linked list of symbols), and
the results are identical. Invariant: text is cut only between characters that stand side by side in no token, so no
join crosses a cut.
"""

import heapq
from itertools import pairwise
from typing import Any

import numpy as np

from worker.errors import GGUFError
from worker.metadata import TOKENIZER, Entries
from worker.text.vocabulary import Vocabulary

_BITMAP_BITS = 22
_CACHED_LENGTH = 48  # characters; longer segments hardly ever come back
_CACHE_SIZE = 32768


class SentencePieceEncoder:
    def __init__(self, entries: Entries, vocabulary: Vocabulary) -> None:
        self._ids = vocabulary.ids
        self._scores = _scores(entries, len(vocabulary))
        unknown = vocabulary.roles.get("unk")
        self._byte_ids = [self._ids.get(f"<0x{byte:02X}>", self._ids.get(chr(byte), unknown)) for byte in range(256)]
        self._neighbours = _neighbours(vocabulary.texts)
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for segment in self._segments(text):
            ids += self._encode_segment(segment)
        return ids

    def _segments(self, text: str) -> list[str]:
        points = _code_points(text)
        cuts = (np.flatnonzero(~self._neighbours[_hash_pairs(points)]) + 1).tolist()
        return [text[begin:end] for begin, end in pairwise([0, *cuts, len(text)])]

    def _encode_segment(self, segment: str) -> list[int]:
        found = self._cache.get(segment)
        if found is not None:
            return found
        ids = self._resolve(self._merge(segment))
        if len(segment) <= _CACHED_LENGTH:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            self._cache[segment] = ids
        return ids

    def _merge(self, text: str) -> list[str]:
        """The symbols left when no two neighbours form a token."""
        size = len(text)
        ids, scores = self._ids, self._scores
        ends = list(range(1, size + 1))  # symbol i spans [i, ends[i]); 0 once it was joined to its left
        before = list(range(-1, size - 1))
        queue: list[tuple[float, int, int, int]] = []  # (-score, left, right, end of right)

        def offer(left: int, right: int) -> None:
            end = ends[right]
            token = ids.get(text[left:end])
            if token is not None:
                heapq.heappush(queue, (-scores[token], left, right, end))

        for right in range(1, size):
            offer(right - 1, right)
        while queue:
            _, left, right, end = heapq.heappop(queue)
            if ends[left] != right or ends[right] != end:
                continue  # one of the two was joined to something else since
            ends[left], ends[right] = end, 0
            if end < size:
                before[end] = left
                offer(left, end)
            if before[left] >= 0:
                offer(before[left], left)

        symbols = []
        begin = 0
        while begin < size:
            symbols.append(text[begin : ends[begin]])
            begin = ends[begin]
        return symbols

    def _resolve(self, symbols: list[str]) -> list[int]:
        ids: list[int] = []
        for symbol in symbols:
            token = self._ids.get(symbol)
            if token is not None:
                ids.append(token)
            else:
                ids += (byte for byte in map(self._byte_ids.__getitem__, symbol.encode()) if byte is not None)
        return ids


def _scores(entries: Entries, size: int) -> list[float]:
    scores = entries.numbers("scores", size)
    if scores is None:
        return [0.0] * size
    if np.isnan(scores).any():
        raise GGUFError(f"metadata key {TOKENIZER}scores holds a value that is not a number")
    listed: list[float] = scores.tolist()
    return listed


def _code_points(text: str) -> np.ndarray[Any, np.dtype[np.uint32]]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _hash_pairs(points: np.ndarray[Any, np.dtype[np.uint32]]) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """One bitmap index for each two neighbouring characters."""
    mixed = points[:-1] * np.uint32(0x9E3779B1) + points[1:] * np.uint32(0x85EBCA6B)
    return mixed >> np.uint32(32 - _BITMAP_BITS)


def _neighbours(texts: list[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A bitmap of the character pairs inside tokens. A collision only means one cut less."""
    bitmap = np.zeros(1 << _BITMAP_BITS, np.bool_)
    inner = _hash_pairs(_code_points("".join(texts)))
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    keep = np.ones(len(inner), np.bool_)
    keep[np.cumsum(lengths)[:-1] - 1] = False  # the last character of a token and the first of the next
    bitmap[inner[keep]] = True
    return bitmap
