"""The metadata of a GGUF file: keys and typed values, read in the order in which they stand.

gguf.py calls `read_metadata` for each file of a model; whoever needs a value asks `Entries` for it. Invariant: a count
or length is compared with what is left of the file before anything of that size is made, and no value is used as
another type than the file gives it.

Values are int, float, bool or str (invalid UTF-8 replaced); arrays of numbers are NumPy arrays (read-only); **arrays of
strings are list[bytes]**, because vocabularies hold pieces of characters. All outlive the file.
"""

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.cursor import UINT32, UINT64, Cursor, shown
from worker.errors import GGUFError

ALIGNMENT_KEY = "general.alignment"
TOKENIZER = "tokenizer.ggml."  # a prefix of keys
MAX_KEY_BYTES = 65535
MIN_KEY_BYTES = 8 + 4 + 1  # name length, value type, value: so that their count can be refused before the first is read


class ValueType(IntEnum):
    """The types of metadata values, by their ids in the file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_NUMBERS: Mapping[ValueType, struct.Struct] = {
    ValueType.UINT8: struct.Struct("<B"),
    ValueType.INT8: struct.Struct("<b"),
    ValueType.UINT16: struct.Struct("<H"),
    ValueType.INT16: struct.Struct("<h"),
    ValueType.UINT32: UINT32,
    ValueType.INT32: struct.Struct("<i"),
    ValueType.FLOAT32: struct.Struct("<f"),
    ValueType.BOOL: struct.Struct("<B"),  # checked to be 0 or 1
    ValueType.UINT64: UINT64,
    ValueType.INT64: struct.Struct("<q"),
    ValueType.FLOAT64: struct.Struct("<d"),
}


def read_metadata(cursor: Cursor, num_keys: int) -> dict[str, Any]:
    """The next keys and their values. Raises GGUFError."""
    metadata: dict[str, Any] = {}
    for number in range(num_keys):
        begin = cursor.offset
        key = cursor.name(f"metadata key {number} of {num_keys}", MAX_KEY_BYTES)
        if key in metadata:
            raise cursor.error(f"metadata key {shown(key)} appears twice", begin)
        metadata[key] = _read_value(cursor, _read_value_type(cursor, f"metadata key {shown(key)}"), shown(key))
        if key == ALIGNMENT_KEY and not _is_power_of_two(metadata[key]):
            raise cursor.error(f"{ALIGNMENT_KEY} is {shown(metadata[key])}, not a power of two", begin)
    return metadata


def _is_power_of_two(value: object) -> bool:
    return type(value) is int and value > 0 and value & (value - 1) == 0


def _read_value_type(cursor: Cursor, what: str) -> ValueType:
    begin = cursor.offset
    id: int = cursor.number(UINT32, f"value type of {what}")
    if id > max(ValueType):
        raise cursor.error(f"{what} has the unknown value type {id}", begin)
    return ValueType(id)


def _read_value(cursor: Cursor, type: ValueType, what: str) -> Any:
    begin = cursor.offset
    if type is ValueType.STRING:
        return cursor.string(what).decode(errors="replace")
    if type is ValueType.ARRAY:
        return _read_array(cursor, what)
    value = cursor.number(_NUMBERS[type], what)
    if type is not ValueType.BOOL:
        return value
    if value > 1:
        raise cursor.error(f"{what} is a bool of value {value}", begin)
    return bool(value)


def _read_array(cursor: Cursor, what: str) -> NDArray[Any] | list[bytes]:
    begin = cursor.offset
    type = _read_value_type(cursor, f"array {what}")
    if type is ValueType.ARRAY:
        raise cursor.error(f"{what} is an array of arrays, which no model needs", begin)
    if type is ValueType.STRING:
        return cursor.strings(cursor.count(UINT64.size, f"strings of {what}"), what)
    layout = _NUMBERS[type]
    count = cursor.count(layout.size, f"elements of {what}")
    begin = cursor.claim(count * layout.size, what)
    values = np.frombuffer(cursor.data[begin : cursor.offset], layout.format)
    if type is not ValueType.BOOL:
        return values
    if count and (largest := values.max()) > 1:
        raise cursor.error(f"{what} is an array of bools with a value of {largest}", begin)
    return values.view(np.bool_)


class Entries:
    """Values of the keys under one prefix, each of the type and in the range that its reader expects.

    All raise GGUFError naming the key, what it holds and what is expected; so does a missing key without a default.
    """

    def __init__(self, metadata: Mapping[str, Any], prefix: str = "") -> None:
        """`prefix` ends with its dot."""
        self._metadata, self._prefix = metadata, prefix

    def whole(self, key: str, default: int | None = None, *, least: int = 1, most: int = 1 << 24) -> int:
        value: int = self._within(least, most, key, self._value(key, default, int, "a whole number"))
        return value

    def real(self, key: str, default: float | None = None, *, least: float = 0, most: float = 1e12) -> float:
        """Any number but NaN."""
        return float(self._within(least, most, key, self._value(key, default, (int, float), "a number")))

    def flag(self, key: str, default: bool) -> bool:
        value: bool = self._value(key, default, bool, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value: str = self._value(key, default, str, "a text")
        return value

    def texts(self, key: str) -> list[bytes]:
        value: list[bytes] = self._value(key, None, list, "an array of texts")
        return value

    def numbers(self, key: str, size: int) -> NDArray[Any] | None:
        """The first `size` numbers of an array, whole or not, which holds at least so many; None if there is none."""
        if self._prefix + key not in self._metadata:
            return None
        value: NDArray[Any] = self._value(key, None, np.ndarray, "an array of numbers")
        if value.dtype == np.bool_:
            raise GGUFError(f"metadata key {self._prefix}{key} is an array of bools, not of numbers")
        if len(value) < size:
            raise GGUFError(f"metadata key {self._prefix}{key} has {len(value)} entries for {size} tokens")
        return value[:size]

    def _value(self, key: str, default: Any, kind: type | tuple[type, ...], expected: str) -> Any:
        key = self._prefix + key
        value = self._metadata.get(key, default)
        if value is None:
            raise GGUFError(f"metadata key {key} is missing")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            told = shown(value.tolist() if isinstance(value, np.ndarray) else value)
            raise GGUFError(f"metadata key {key} is {told}, not {expected}")
        return value

    def _within(self, least: float, most: float, key: str, value: Any) -> Any:
        if not least <= value <= most:
            raise GGUFError(f"metadata key {self._prefix}{key} is {value}, outside {least} to {most}")
        return value
