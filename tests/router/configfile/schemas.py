"""JSON Schema as far as our own schema goes: what in a document is against it.

Used by test_schema.py. Invariant: a keyword that is not known here is an error, never skipped.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str, date),  # what JSON has no type for
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
_TELLING = {"$schema", "title", "description", "format"}  # what decides nothing


def faults(value: Any, schema: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """A line for each thing that is wrong."""
    for keyword, wanted in schema.items():
        yield from _CHECKS[keyword](value, wanted, schema, place) if keyword not in _TELLING else ()


def _type(value: Any, wanted: Any, schema: Any, place: str) -> Iterator[str]:
    names = [wanted] if isinstance(wanted, str) else wanted
    if not any(isinstance(value, _TYPES[name]) and (name == "boolean") >= isinstance(value, bool) for name in names):
        yield f"{place}: {value!r} is none of {', '.join(names)}"


def _properties(value: Any, wanted: Any, schema: Any, place: str) -> Iterator[str]:
    for name, inside in wanted.items():
        if isinstance(value, dict) and name in value:
            yield from faults(value[name], inside, f"{place}/{name}")


def _others(value: Any, wanted: Any, schema: Any, place: str) -> Iterator[str]:
    for name in set(value if isinstance(value, dict) else ()) - set(schema.get("properties", ())):
        yield from (
            [f"{place}: no property {name!r}"] if wanted is False else faults(value[name], wanted, f"{place}/{name}")
        )


def _items(value: Any, wanted: Any, schema: Any, place: str) -> Iterator[str]:
    for index, item in enumerate(value if isinstance(value, list) else ()):
        yield from faults(item, wanted, f"{place}/{index}")


def _any_of(value: Any, wanted: Any, schema: Any, place: str) -> Iterator[str]:
    found = [list(faults(value, each, place)) for each in wanted]
    if all(found):
        yield f"{place}: {' and '.join(each[0] for each in found)}"


def _required(value: Any, wanted: Any, schema: Any, place: str) -> Iterator[str]:
    for name in wanted:
        if isinstance(value, dict) and name not in value:
            yield f"{place}: {name!r} is missing"


def _rule(holds: Any, says: str) -> Any:
    """A check of one value, of the types that it is about."""

    def check(value: Any, wanted: Any, schema: Any, place: str) -> Iterator[str]:
        if not holds(value, wanted):
            yield f"{place}: {value!r} {says} {wanted!r}"

    return check


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_CHECKS: Mapping[str, Any] = {
    "type": _type,
    "properties": _properties,
    "additionalProperties": _others,
    "items": _items,
    "anyOf": _any_of,
    "required": _required,
    "enum": _rule(lambda value, wanted: value in wanted, "is none of"),
    "pattern": _rule(lambda value, wanted: not isinstance(value, str) or re.search(wanted, value), "is not like"),
    "minLength": _rule(lambda value, wanted: not isinstance(value, str) or len(value) >= wanted, "is shorter than"),
    "minimum": _rule(lambda value, wanted: not _is_number(value) or value >= wanted, "is less than"),
    "maximum": _rule(lambda value, wanted: not _is_number(value) or value <= wanted, "is more than"),
    "exclusiveMinimum": _rule(lambda value, wanted: not _is_number(value) or value > wanted, "is not more than"),
}
