"""Reading a JSON body: one table row per field says its type, default and range; this module applies the rows.

Called by every endpoint of router/api that has a body. Invariant: a value that leaves `read` has the row's type and
lies in the row's range; everything else became an InvalidRequest or NotSupported naming the field.
"""

import math
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from starlette.requests import Request

from router.errors import InvalidRequest, NotSupported

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
FLOATS_APART = 2**53  # below it every whole number has a float of its own
FLOAT32_MAX = 3.4028234663852886e38
MAX_SHOWN = 60  # characters of a bad value repeated in a message

Body = Mapping[str, Any]
Reader = Callable[["Field", Any], Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a body. Absent and null mean the default; `hard` ranges refuse, soft ones clamp.

    `neutral`, where given, tells the values that ask for nothing: any other is refused as not supported.
    """

    name: str
    reader: Reader
    default: Any = None
    low: float = -math.inf
    high: float = math.inf
    hard: bool = True
    aliases: tuple[str, ...] = ()
    neutral: Callable[[Any], bool] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The field's names; the first one present in a body counts."""
        return (self.name, *self.aliases)


async def json_body(request: Request, *, may_be_empty: bool = False) -> dict[str, Any]:
    """The request's body, which must be one JSON object, or nothing at all if that `may_be_empty`."""
    received = await _received(request)
    if may_be_empty and not received:
        return {}
    try:
        body = orjson.loads(received.removeprefix(BOM_UTF8))
        orjson.dumps(body)  # nests less deeply than it reads: what passes here can be shown and passed on
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the request body is not valid JSON: {error}") from None
    except orjson.JSONEncodeError:
        raise InvalidRequest("the request body is nested too deeply") from None
    if not isinstance(body, dict):
        raise InvalidRequest(f"the request body must be a JSON object, but is {kind_of(body)}")
    return body


async def _received(request: Request) -> bytes:
    """The body as it came. A client that leaves meanwhile is answered as well, whether or not it still listens."""
    parts: list[bytes] = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequest("the connection was closed before the request was complete")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


class Fields(tuple[Field, ...]):
    """A table of fields. Bodies have few of them: what is the same for all bodies is worked out once."""

    defaults: dict[str, Any]  # by first name
    rows: dict[str, int]  # by each name
    spellings: list[list[Field]]  # of each row: itself under each of its names, since errors speak of the one given

    def __new__(cls, *fields: Field) -> "Fields":
        table = super().__new__(cls, fields)
        table.defaults = {field.name: field.default for field in fields}
        table.rows = {name: row for row, field in enumerate(fields) for name in field.names}
        table.spellings = [[replace(field, name=name) for name in field.names] for field in fields]
        return table


def read(fields: Fields, body: Body) -> dict[str, Any]:
    """Every field's value, by its first name."""
    values = dict(fields.defaults)
    given = {fields.rows[name] for name in body if name in fields.rows}
    for row in sorted(given):
        values[fields[row].name] = _value(fields[row], fields.spellings[row], body)
    return values


def _value(field: Field, spellings: Sequence[Field], body: Body) -> Any:
    value, found = field.default, False
    for spelled in reversed(spellings):
        given = body.get(spelled.name)
        if given is not None:
            value, found = field.reader(spelled, given), True
    if found and field.neutral is not None and not field.neutral(value):
        raise NotSupported(f"Field '{field.name}': {shown(value)} is not supported yet")
    return value


# ---- readers: (row, JSON value) -> value ------------------------------------------------------


def boolean(field: Field, value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise wrong_type(field.name, "a boolean", value)
    return value


def integer(field: Field, value: Any) -> int:
    """A whole number in the row's range; 40.0 is one, true is not."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
        raise wrong_type(field.name, "an integer", value)
    return int(_ranged(field, value, -INT32_MAX - 1, INT32_MAX))


def long(field: Field, value: Any) -> int:
    """A whole number of up to 64 bits; 40.0 is one, as is any float that stands for no other number."""
    if isinstance(value, float) and value.is_integer() and abs(value) < FLOATS_APART:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(field.name, "a 64-bit integer", value)
    return int(_ranged(field, value, -INT64_MAX - 1, INT64_MAX))


def number(field: Field, value: Any) -> float:
    """A number that a float32 can hold, in the row's range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(field.name, "a number", value)
    return float(_ranged(field, value, -FLOAT32_MAX, FLOAT32_MAX))


def string(field: Field, value: Any) -> str:
    """Text."""
    if not isinstance(value, str):
        raise wrong_type(field.name, "a string", value)
    return value


def strings(field: Field, value: Any) -> list[str]:
    """A string, or an array of at most `high` strings; empty ones say nothing and are left out."""
    values = [value] if isinstance(value, str) else array(field, value)
    for index, item in enumerate(values):
        if not isinstance(item, str):
            raise wrong_type(f"{field.name}[{index}]", "a string", item)
    return [item for item in values if item]


def array(field: Field, value: Any) -> list[Any]:
    """An array of at most `high` items."""
    if not isinstance(value, list):
        raise wrong_type(field.name, "an array", value)
    if len(value) > field.high:
        raise InvalidRequest(f"Field '{field.name}': at most {field.high:.0f} items, but got {len(value)}")
    return value


def mapping(field: Field, value: Any) -> dict[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise wrong_type(field.name, "an object", value)
    return value


def anything(field: Field, value: Any) -> Any:
    """Any JSON value."""
    return value


def _ranged(field: Field, value: float, low: float, high: float) -> float:
    low, high = max(field.low, low), min(field.high, high)
    if low <= value <= high:
        return value
    if not field.hard:
        return min(max(value, low), high)
    raise out_of_range(field.name, low, high, value)


# ---- what a client reads ----------------------------------------------------------------------


def wrong_type(name: str, expected: str, value: Any) -> InvalidRequest:
    """A value of another type than the field's."""
    return InvalidRequest(f"Field '{name}': expected {expected}, but got {kind_of(value)}: {shown(value)}")


def out_of_range(name: str, low: float, high: float, value: Any) -> InvalidRequest:
    """A value outside the allowed range, both ends of which belong to it."""
    return InvalidRequest(f"Field '{name}': Value must be between {low} <= value <= {high}, but got {shown(value)}")


def shown(value: Any) -> str:
    """A client's value as JSON, cut to a length fit for a message."""
    text = orjson.dumps(value).decode()
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def kind_of(value: Any) -> str:
    """A JSON value's type, with its article."""
    for types, name in _KINDS:
        if isinstance(value, types):
            return name
    return "null"


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "a boolean"),
    ((int, float), "a number"),
    (str, "a string"),
    (list, "an array"),
    (dict, "an object"),
)
