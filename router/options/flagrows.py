"""What a row of the flags' table is, and how rows are written: a line each.

flagtable.py and inertflags.py write them; who reads flags gets them as `Flag`. Invariant: a row says all that it takes
to parse its flag and to explain it.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass


class Takes(enum.Enum):
    NOTHING = 0
    VALUE = 1
    PAIR = 2
    WORD = 3  # one of `words`, or nothing


class Effect(enum.Enum):
    SERVE = "serve"  # a setting of the gateway
    WORKER = "worker"  # handed on to every worker
    REQUEST = "request"  # a default for what a request does not say
    NONE = "none"  # understood, without effect


@dataclass(frozen=True, slots=True)
class Flag:
    """One row: `key` is what settings.py asks for; `off` are the names that mean the opposite."""

    key: str
    names: tuple[str, ...]
    effect: Effect
    takes: Takes = Takes.VALUE
    off: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()  # environment
    metavar: str = ""
    help: str = ""
    note: str = ""
    off_note: str = ""


ON_OFF = ("on", "off", "auto", "true", "false", "0", "1", "enabled", "disabled")


def _names(spec: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """ "-x --name ! --no-name $ VARIABLE": names, names that mean the opposite, environment variables."""
    names, _, variables = spec.partition("$")
    on, _, off = names.partition("!")
    return tuple(on.split()), tuple(off.split()), tuple(variables.split())


def _key(names: tuple[str, ...]) -> str:
    return names[-1].lstrip("-").replace("-", "_")


def active(effect: Effect, rows: str) -> Iterator[Flag]:
    """Rows with an effect, one a line: names : value (empty for a switch) : help."""
    for row in rows.strip().splitlines():
        spec, metavar, text = (part.strip() for part in row.split(" : ", 2))
        names, off, variables = _names(spec)
        takes = Takes.VALUE if metavar else Takes.NOTHING
        yield Flag(_key(names), names, effect, takes, off, variables=variables, metavar=metavar, help=text)


def inert(note: str, rows: str, takes: Takes, off_note: str | None = None) -> Iterator[Flag]:
    """Rows without effect, one a line."""
    for row in rows.strip().splitlines():
        names, off, variables = _names(row)
        yield Flag(
            key=_key(names),
            names=names,
            effect=Effect.NONE,
            takes=takes,
            off=off,
            words=ON_OFF if takes is Takes.WORD else (),
            variables=variables,
            note=note,
            off_note=note if off_note is None else off_note,
        )
