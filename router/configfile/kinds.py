"""The kinds of values a configuration has: what each accepts, what it makes of it, and its JSON Schema.

Used by tables.py for the rows and by reading.py to apply them. Invariant: a value that `read` returns is valid; every
other one became a WrongValue that says what is expected.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from datetime import date as Date
from typing import Any

from router.remotes.addresses import BadAddress, parse_target

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DIGEST = re.compile(r"[0-9a-f]{64}")


class WrongValue(Exception):
    """The value is not of the kind; the message says what is expected."""


@dataclass(frozen=True, slots=True)
class Kind:
    """`read` gets what TOML gave and returns the value, or raises WrongValue."""

    read: Callable[[Any], Any]
    schema: Mapping[str, Any]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise WrongValue("a text")
    return value


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise WrongValue("true or false")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
        raise WrongValue("a text or a list of texts")
    return tuple(items)


def _fields(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise WrongValue("a table")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(value))
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise WrongValue('seconds as a number, or a text such as "10m" or "1h30m"')
    return float(value)


def _moment(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, Date):
        return datetime.combine(value, time(), UTC)
    raise WrongValue("a date, or a date and a time, such as 2030-12-31 or 2030-12-31T12:00:00Z")


def _digest(value: Any) -> bytes:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise WrongValue("the sha256 of a key in 64 hexadecimal digits, as `corral keys new` writes it")
    return bytes.fromhex(value)


def _addresses(value: Any) -> tuple[str, ...]:
    found = _texts(value)
    for text in found:
        try:
            parse_target(text)
        except BadAddress as bad:
            raise WrongValue(str(bad)) from None
    if len(set(found)) < len(found):
        raise WrongValue("each address once")
    return found


TEXT = Kind(_text, {"type": "string", "minLength": 1})
SWITCH = Kind(_switch, {"type": "boolean"})
TEXTS = Kind(_texts, {"type": ["string", "array"], "items": {"type": "string"}})
ADDRESSES = Kind(_addresses, {"type": ["string", "array"], "items": {"type": "string"}})
FIELDS = Kind(_fields, {"type": "object"})
SECONDS = Kind(_seconds, {"type": ["number", "string"], "minimum": 0})
MOMENT = Kind(_moment, {"type": "string", "format": "date-time"})
DIGEST = Kind(_digest, {"type": "string", "pattern": "^[0-9a-f]{64}$"})


def whole(low: int, high: int) -> Kind:
    """A whole number, both ends included."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise WrongValue(f"a whole number from {low} to {high}")
        return value

    return Kind(read, {"type": "integer", "minimum": low, "maximum": high})


def within(low: float, high: float) -> Kind:
    """A number, both ends included."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise WrongValue(f"a number from {low:g} to {high:g}")
        return float(value)

    return Kind(read, {"type": "number", "minimum": low, "maximum": high})


def positive(high: float) -> Kind:
    """A number above 0, up to `high`."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= high:
            raise WrongValue(f"a number above 0, at most {high:g}")
        return float(value)

    return Kind(read, {"type": "number", "exclusiveMinimum": 0, "maximum": high})


def one_of(words: Sequence[str]) -> Kind:
    """One of some words."""

    def read(value: Any) -> str:
        if value not in words:
            raise WrongValue(f"one of {', '.join(words)}")
        return str(value)

    return Kind(read, {"enum": list(words)})


def some_of(words: Sequence[str]) -> Kind:
    """A list of some words, at least one."""

    def read(value: Any) -> frozenset[str]:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not items or any(item not in words for item in items):
            raise WrongValue(f"one or more of {', '.join(words)}")
        return frozenset(items)

    return Kind(read, {"type": ["string", "array"], "items": {"enum": list(words)}})
