"""The few numbers at the head of a GGUF file that say how much memory its model takes.

Called by footprint.py. The gateway opens no model: it reads single numbers until it comes to the vocabulary, whose
length is the last of them, and steps over everything else. Invariant: whatever the file holds, no read is longer than a
key may be, no offset passes the file's end, and a file that is no good has no numbers; its worker says what is wrong.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

VOCABULARY = "tokenizer.ggml.tokens"
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_KEYS = 4096
_MOST_KEY_BYTES = 256
_MOST_STRINGS = 4096  # of one list; before the vocabulary there are only tags and the like
_STRING, _ARRAY = 8, 9
_UINT32, _UINT64 = struct.Struct("<I"), struct.Struct("<Q")
_NUMBERS = {  # by a value's type
    0: struct.Struct("<B"), 1: struct.Struct("<b"), 2: struct.Struct("<H"), 3: struct.Struct("<h"),
    4: _UINT32, 5: struct.Struct("<i"), 6: struct.Struct("<f"), 7: struct.Struct("<?"),
    10: _UINT64, 11: struct.Struct("<q"), 12: struct.Struct("<d"),
}  # fmt: skip


class _Unusable(Exception):
    """The file is not what it should be."""


def read_numbers(path: Path) -> Mapping[str, int]:
    """The whole numbers from 0 on that stand before the vocabulary, by their keys without the architecture's name
    ("block_count"), and the vocabulary's length as VOCABULARY. Empty for a file that cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _Head(file, path.stat().st_size).numbers()
    except (OSError, _Unusable):
        return {}


class _Head:
    """Walks a file's head from front to back."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def numbers(self) -> Mapping[str, int]:
        if self._read(len(_MAGIC)) != _MAGIC or self._number(_UINT32) not in _VERSIONS:
            raise _Unusable
        self._number(_UINT64)  # tensors
        found: dict[str, int] = {}
        for _ in range(min(self._whole(), _MOST_KEYS)):
            key, kind = self._key(), int(self._number(_UINT32))
            if key == VOCABULARY and kind == _ARRAY:
                self._number(_UINT32)
                return {**found, key: self._whole()}
            if kind in _NUMBERS:
                number = self._number(_NUMBERS[kind])
                if isinstance(number, int) and number >= 0:
                    found[key.partition(".")[2]] = number
            else:
                self._skip_value(kind)
        return found

    def _key(self) -> str:
        length = self._whole()
        if length > _MOST_KEY_BYTES:
            raise _Unusable
        return self._read(length).decode(errors="replace")

    def _skip_value(self, kind: int) -> None:
        if kind == _STRING:
            self._skip(self._whole())
            return
        if kind != _ARRAY:
            raise _Unusable
        kind, count = int(self._number(_UINT32)), self._whole()
        if kind in _NUMBERS:
            self._skip(count * _NUMBERS[kind].size)
            return
        if kind != _STRING or count > _MOST_STRINGS:
            raise _Unusable
        for _ in range(count):
            self._skip(self._whole())

    def _number(self, layout: struct.Struct) -> float:
        number: float = layout.unpack(self._read(layout.size))[0]
        return number

    def _whole(self) -> int:
        return int(self._number(_UINT64))

    def _read(self, num_bytes: int) -> bytes:
        data = self._file.read(num_bytes)
        if len(data) < num_bytes:
            raise _Unusable
        return data

    def _skip(self, num_bytes: int) -> None:
        if num_bytes > self._size - self._file.tell():
            raise _Unusable
        self._file.seek(num_bytes, 1)
