"""What a row of the flags' table is, and how rows are written: a line each.

flagtable.py, inertflags.py and refusedflags.py write them; who reads flags gets them as `Flag`. Invariant: a row says
all that it takes to parse its flag and to explain it.
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
    SHOW = "show"  # something is printed, and nothing served
    NONE = "none"  # understood, without effect
    REFUSED = "refused"  # answers would not be what it asks for


COMMAND_LINE_ONLY = frozenset({Effect.SHOW})
ON = ("on", "true", "1", "yes", "enabled")
OFF = ("off", "false", "0", "no", "disabled")


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
    harmless: tuple[str, ...] = ()  # values of a refused flag that ask for nothing

    def refuses(self, value: str) -> bool:
        """Whether the start must fail for it."""
        return self.effect is Effect.REFUSED and value not in ("", *self.harmless)

    def word(self, value: str) -> str:
        """Of its words, the one that is meant; empty: none. Raises ValueError."""
        word = value.lower()
        if word in self.words or not word:
            return word
        if word in (*ON, *OFF):
            return "on" if word in ON else "off"
        raise ValueError(f"must be one of {', '.join(self.words)}, but is '{value}'")


def _names(spec: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """ "-x --name ! --no-name $ VARIABLE": names, names that mean the opposite, environment variables."""
    names, _, variables = spec.partition("$")
    on, _, off = names.partition("!")
    return tuple(on.split()), tuple(off.split()), tuple(variables.split())


def _key(names: tuple[str, ...]) -> str:
    return names[-1].lstrip("-").replace("-", "_")


def active(effect: Effect, rows: str) -> Iterator[Flag]:
    """Rows with an effect, one a line: names : value (empty for a switch, in brackets if it is optional) : help."""
    for row in rows.strip().splitlines():
        spec, metavar, text = (part.strip() for part in row.split(" : ", 2))
        names, off, variables = _names(spec)
        words = tuple(metavar[1:-1].split("|")) if metavar.startswith("[") else ()
        takes = Takes.WORD if words else Takes.VALUE if metavar else Takes.NOTHING
        yield Flag(_key(names), names, effect, takes, off, words, variables, metavar, text)


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
            words=("on", "off", "auto") if takes is Takes.WORD else (),
            variables=variables,
            note=note,
            off_note=note if off_note is None else off_note,
        )


def refused(note: str, rows: str, takes: Takes = Takes.VALUE) -> Iterator[Flag]:
    """Rows that end the start, one a line: names = values that ask for nothing. `note`: why, and what to do instead."""
    for row in rows.strip().splitlines():
        spec, _, harmless = row.partition(" = ")
        names, off, variables = _names(spec)
        yield Flag(
            key=_key(names),
            names=names,
            effect=Effect.REFUSED,
            takes=takes,
            off=off,
            variables=variables,
            note=note,
            harmless=("off",) if takes is Takes.NOTHING else tuple(harmless.split()),
        )
