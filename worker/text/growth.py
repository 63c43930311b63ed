"""How large a template's values are, and how large they would become: known before Jinja is allowed to make them.

Used by sandbox.py for every operator, call, filter and test, and by template_filters.py. Invariant: an operation that
passes these rules returns at most about LARGEST characters and takes a time in proportion to what was measured.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from jinja2.exceptions import SecurityError

PER_ITEM = 50  # what an element of a list, a call or a number counts for, in characters
LARGEST = 8_000_000  # characters of one value
LARGEST_INTEGER = 4096  # bits
LARGEST_PRECISION = 300  # digits of a rounded float


def size_of(value: Any) -> int:
    """Characters the value may print as; a list held twice counts twice. Raises SecurityError if too large."""
    total = 0
    stack = [value]
    while stack:
        item = stack.pop()
        total += PER_ITEM
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, dict):
            stack.extend(item)
            stack.extend(item.values())
        elif isinstance(item, list | tuple | set | frozenset):
            stack.extend(item)
        elif isinstance(item, int) and item.bit_length() > LARGEST_INTEGER:
            raise SecurityError("it makes too large a number")
        check_size(total + PER_ITEM * len(stack))
    return total


def check_size(size: int) -> int:
    if size > LARGEST:
        raise SecurityError("it makes too large a value")
    return size


def operator_growth(operator: str, left: Any, right: Any) -> int:
    """Characters `left operator right` may have. Raises SecurityError for what must not be computed."""
    if operator == "*":
        for sequence, count in ((left, right), (right, left)):
            if isinstance(sequence, str | list | tuple) and isinstance(count, int):
                length = len(sequence) if isinstance(sequence, str) else size_of(sequence)
                return check_size(length * max(count, 0))
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        return check_size(0 if left.bit_length() * abs(right) <= LARGEST_INTEGER else _refuse())
    if operator == "%" and isinstance(left, str):
        return check_size(_format(left, right))
    return 0


def growth(name: str, *args: Any, **kwargs: Any) -> int:
    """Characters a string method or filter may return. Arguments it cannot take raise TypeError, as the call would."""
    rule = _RULES.get(name)
    return check_size(rule(*args, **kwargs)) if rule else 0


def _refuse() -> int:
    raise SecurityError("it asks for more than templates may")


_FIELD = re.compile(r"%(?:\([^()]*\))?[#0\- +]*(\d*)(?:\.(\d*))?[hlL]?[a-zA-Z%]")


def _format(pattern: str, values: Any) -> int:
    """A width given as `*`, by an argument, is refused: it leaves a `%` that is no field."""
    fields = list(_FIELD.finditer(pattern))
    if sum(field[0].count("%") for field in fields) != pattern.count("%"):
        _refuse()
    widths = sum(int((digits or "0")[:9]) for field in fields for digits in field.groups())
    return len(pattern) + widths + len(fields) * size_of(values)


def _format_filter(value: Any, *args: Any, **kwargs: Any) -> int:
    return _format(str(value), kwargs or args)


def _replace(s: Any, old: str, new: str, count: int | None = None) -> int:
    return len(str(s)) + str(s).count(str(old)) * len(str(new))


def _pad(value: Any, width: int = 80, fill: str = " ") -> int:
    return max(width, 0)


def _indent(s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> int:
    lines = len(str(s).splitlines()) + 1
    return len(str(s)) + lines * (len(width) if isinstance(width, str) else max(width, 0))


def _join(separator: str, parts: Any) -> int:
    return len(separator) * len(parts) if isinstance(parts, list | tuple | dict | str) else _refuse()


def _strip(value: Any, chars: str | None = None) -> int:
    return len(str(value)) * len(chars or "") // 16  # work, not length: each character is looked for among `chars`


def _slow(value: Any, *_: Any, **__: Any) -> int:
    return 10 * len(str(value))  # written in Python, a step for each word or character


def _expandtabs(value: str, tabsize: int = 8) -> int:
    return len(value) + value.count("\t") * max(tabsize, 0)


def _batch(value: Any, linecount: int, fill_with: Any = None) -> int:
    return PER_ITEM * max(linecount, 0)


def _slice(value: Any, slices: int, fill_with: Any = None) -> int:
    return PER_ITEM * max(slices, 0)


def _round(value: Any, precision: int = 0, method: str = "common") -> int:
    return 0 if abs(precision) <= LARGEST_PRECISION else _refuse()


def _sum(iterable: Any, attribute: Any = None, start: Any = 0) -> int:
    return 0 if isinstance(start, int | float) else _refuse()  # adding up lists takes quadratic time


_RULES: Mapping[str, Callable[..., int]] = {
    "batch": _batch,
    "center": _pad,
    "expandtabs": _expandtabs,
    "format": _format_filter,
    "indent": _indent,
    "join": _join,
    "ljust": _pad,
    "lstrip": _strip,
    "replace": _replace,
    "rjust": _pad,
    "round": _round,
    "rstrip": _strip,
    "slice": _slice,
    "strip": _strip,
    "sum": _sum,
    "title": _slow,
    "trim": _strip,
    "urlencode": _slow,
    "zfill": _pad,
}
