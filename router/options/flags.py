"""Reads a command line and the environment by the table of flags. Pure.

Called by serve.py; settings.py makes sense of the values. Precedence: flag, then environment, then the layers that
configuration files add with `filled`. Every flag has its LLAMA_ARG variable, if llama-server has one, and CORRAL_KEY,
except for what commands of a client read.
Invariant: every word of the command line is understood or refused; none is skipped.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from router.errors import CommandError
from router.options.flagrows import COMMAND_LINE_ONLY, OFF, ON, Effect, Flag, Takes
from router.options.flagtable import FLAGS
from router.paths import BadPath, path_of

EXIT_USAGE = 2
# By this `corral ps` and its like present a key, perhaps one of few rights: as --api-key it would have all of them.
OF_CLIENTS = frozenset({"CORRAL_API_KEY"})
_BY_NAME: Mapping[str, Flag] = {name: flag for flag in FLAGS for name in (*flag.names, *flag.off)}
_BY_VARIABLE: Mapping[str, Flag] = {name: flag for flag in FLAGS for name in flag.variables}


@dataclass(frozen=True, slots=True)
class FileValue:
    """A flag that a file sets: its name there, its values, and where that is."""

    flag: Flag
    name: str
    texts: tuple[str, ...]
    where: str


Layer = Mapping[str, FileValue]  # by the flag's key


@dataclass(slots=True)
class Given:
    """What was given: the values of each key in order, and the flags without effect by the reason for it."""

    values: dict[str, list[str]] = field(default_factory=dict)
    inert: dict[str, list[str]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)  # who gave the values of a key

    def filled(self, layer: Layer) -> "Given":
        """These values, and the layer's for the keys without one."""
        result = Given(
            {key: list(values) for key, values in self.values.items()},
            {note: list(names) for note, names in self.inert.items()},
            dict(self.origins),
        )
        for key, value in layer.items():
            if key not in self.values:
                for text in value.texts:
                    result.take(value.flag, value.name, text, value.where)
        return result

    def called(self, key: str) -> str:
        """What to call a setting in a message: the flag or, with its place, the key of a file."""
        origin = self.origins.get(key, "")
        return origin if ":" in origin else "--" + key.replace("_", "-")

    def last(self, key: str) -> str | None:
        found = self.values.get(key)
        return found[-1] if found else None

    def paths(self, key: str) -> list[Path]:
        """All its values as files and folders. Raises CommandError."""
        try:
            return [path_of(text) for text in self.values.get(key, ())]
        except BadPath as bad:
            raise CommandError(f"{self.called(key)}: {bad}", EXIT_USAGE) from None

    def path(self, key: str) -> Path | None:
        """The last of them. Raises CommandError."""
        found = self.paths(key)
        return found[-1] if found else None

    def listed(self, key: str) -> list[str]:
        """What stands between commas in all its values."""
        return [part for value in self.values.get(key, ()) for part in parts(value)]

    @property
    def asks(self) -> bool:
        """Whether something is to be shown instead of serving."""
        return any(self.on(flag.key) for flag in FLAGS if flag.effect is Effect.SHOW)

    def on(self, key: str, default: bool = False) -> bool:
        found = self.last(key)
        return default if found is None else found == "on"

    def notes(self) -> tuple[str, ...]:
        """One line per reason."""
        return tuple(f"no effect: {', '.join(names)} ({note})" for note, names in self.inert.items())

    def take(self, flag: Flag, name: str, value: str, origin: str) -> None:
        """Files one flag as given; an off-name or an off-word turns it around. Raises CommandError if it is refused."""
        called = origin if ":" in origin else name
        if flag.refuses(value):
            raise CommandError(f"{called}: {flag.note}", EXIT_USAGE)
        try:
            value = flag.word(value) if flag.takes is Takes.WORD else value
        except ValueError as error:
            raise CommandError(f"{called} {error}", EXIT_USAGE) from None
        if flag.effect is Effect.REFUSED:
            return
        if flag.effect is not Effect.NONE:
            self.origins[flag.key] = origin
            self.values.setdefault(flag.key, []).append(value)
            return
        off = name in flag.off or (flag.takes in (Takes.NOTHING, Takes.WORD) and value in ("off", ""))
        note = flag.off_note if off else flag.note
        if note and name not in self.inert.setdefault(note, []):
            self.inert[note].append(name)


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Given:
    """Raises CommandError for a word that is no flag or a flag without its value."""
    given = Given()
    for flag, name, value in _words(arguments):
        given.take(flag, name, value, name)
    seen = {_BY_NAME[word.partition("=")[0]].key for word in arguments if word.partition("=")[0] in _BY_NAME}
    for flag in FLAGS:
        if flag.key not in seen and flag.effect not in COMMAND_LINE_ONLY:
            _take_variable(given, flag, environment)
    return given


def named(name: str) -> Flag | None:
    """The flag of a name with or without its dashes, or of a variable."""
    found = _BY_NAME.get(name) or _BY_NAME.get(f"--{name}") or _BY_NAME.get(f"-{name}")
    return found or _BY_VARIABLE.get(name)


def long_names() -> Mapping[str, Flag]:
    """Every flag by its long names, without the dashes."""
    return {name[2:]: flag for name, flag in _BY_NAME.items() if name.startswith("--")}


def parts(text: str) -> list[str]:
    """What stands between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _words(arguments: Sequence[str]) -> Iterator[tuple[Flag, str, str]]:
    """The flags of a command line: (flag, the name used, its value; "on" or "off" for a switch)."""
    rest = list(reversed(arguments))
    while rest:
        word = rest.pop()
        name, joined, value = word.partition("=") if word.startswith("--") else (word, "", "")
        flag = _BY_NAME.get(name)
        if flag is None:
            raise CommandError(_unknown(name), EXIT_USAGE)
        yield flag, name, value if joined else _value(flag, name, rest)


def _value(flag: Flag, name: str, rest: list[str]) -> str:
    """Takes the flag's value off the reversed rest of the line."""
    match flag.takes:
        case Takes.NOTHING:
            return "off" if name in flag.off else "on"
        case Takes.WORD:
            return rest.pop() if rest and not rest[-1].startswith("-") else "on"
        case _:
            num_values = 2 if flag.takes is Takes.PAIR else 1
            if len(rest) < num_values:
                raise CommandError(f"{name} needs {'two values' if num_values == 2 else 'a value'}", EXIT_USAGE)
            return " ".join(rest.pop() for _ in range(num_values))


def _take_variable(given: Given, flag: Flag, environment: Mapping[str, str]) -> None:
    for variable in (*flag.variables, f"CORRAL_{flag.key.upper()}"):
        value = environment.get(variable)
        if value is None or variable in OF_CLIENTS:
            continue
        if flag.takes is Takes.NOTHING:
            value = _switch(variable, value)
        given.take(flag, variable, value, variable)
        return


def _switch(variable: str, value: str) -> str:
    if value.lower() in (*ON, *OFF, ""):
        return "on" if value.lower() in ON else "off"
    raise CommandError(f"{variable} must be 1 or 0, but is '{value}'", EXIT_USAGE)


def _unknown(word: str) -> str:
    if not word.startswith("-"):
        return f"unexpected argument '{word}'; a model is given with -m FILE"
    useful = [name for name, flag in _BY_NAME.items() if flag.effect not in (Effect.NONE, Effect.REFUSED)]
    nearest = difflib.get_close_matches(word, useful, n=1) or difflib.get_close_matches(word, _BY_NAME, n=1)
    return f"unknown flag '{word}'" + (f"; did you mean '{nearest[0]}'?" if nearest else "")


_SECTIONS = (
    ("the gateway", Effect.SERVE),
    ("every worker", Effect.WORKER),
    ("what of requests is the default", Effect.REQUEST),
    ("shown, and nothing served", Effect.SHOW),
)


def usage() -> str:
    """The text of `corral serve --help`: every flag with an effect."""
    lines = ["usage: corral serve -m FILE [-m FILE ...] [--alias NAME=FILE ...] [flags]", ""]
    for title, effect in _SECTIONS:
        lines.append(f"{title}:")
        lines += [line for flag in FLAGS if flag.effect is effect for line in _help_lines(flag)]
        lines.append("")
    lines.append("llama-server's other flags are understood: one without effect says so at the start; one that would")
    lines.append("change answers, and cannot be had here, ends it and says what to do.")
    return "\n".join(lines)


def _help_lines(flag: Flag) -> Iterator[str]:
    names = ", ".join((*flag.names, *flag.off))
    left = f"  {names} {flag.metavar}".rstrip()
    variable = f" [{flag.variables[0]}]" if flag.variables else ""
    if len(left) > 38:
        yield left
        left = ""
    yield f"{left:<40}{flag.help}{variable}"
