"""A flag set by a file: its name found in the flags' table, its value made the text a command line would have.

Called by reading.py for [server] and `worker`, and by presets.py. Invariant: what is returned has the type that the
flag takes; whether it lies in range, settings.py decides, as for a flag.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from router.configfile.kinds import WrongValue
from router.configfile.locate import KeyPath
from router.configfile.problems import Problems
from router.options.flagrows import COMMAND_LINE_ONLY, Effect, Flag, Takes
from router.options.flags import FileValue, Layer, long_names
from router.paths import BadPath, path_of

FILES = frozenset({"FILE", "DIR"})
WHOLE = frozenset({"N", "PORT", "BYTES"})
OF_GATEWAY = "this is a setting of the whole gateway; it belongs under [server]"
NOT_IN_FILE = frozenset({"config", "spec_draft_hf"})


def read_flags(
    table: Mapping[str, Any], path: KeyPath, problems: Problems, effects: frozenset[Effect], base: Path
) -> Layer:
    """The flags of a table, by key. `effects`: which may stand here; file names are relative to `base`."""
    known = long_names()
    layer: dict[str, FileValue] = {}
    for key, value in table.items():
        place = (*path, key)
        flag = known.get(key.replace("_", "-"))
        if flag is not None and (flag.key in NOT_IN_FILE or flag.effect in COMMAND_LINE_ONLY):
            problems.add(place, "this is for the command line only")
        elif flag is None:
            useful = [name for name, each in known.items() if each.effect in effects - {Effect.NONE}]
            problems.unknown(place, "flag", useful, known)
        elif flag.effect not in effects:
            problems.add(place, OF_GATEWAY)
        else:
            _take(layer, flag, key, value, place, problems, base)
    return layer


def _take(
    layer: dict[str, FileValue], flag: Flag, key: str, value: Any, place: KeyPath, problems: Problems, base: Path
) -> None:
    if flag.key in layer:
        problems.add(place, f"the same setting as '{layer[flag.key].name.lstrip('-')}'")
        return
    name = "--" + key.replace("_", "-")
    try:
        texts = _texts(flag, name, value, base)
    except WrongValue as wrong:
        problems.add(place, f"expected {wrong}, but got {shown(value)}")
        return
    except BadPath as bad:
        problems.add(place, str(bad))
        return
    if any(map(flag.refuses, texts)):
        problems.add(place, flag.note)
        return
    layer[flag.key] = FileValue(flag, name, texts, problems.where(place))


def _texts(flag: Flag, name: str, value: Any, base: Path) -> tuple[str, ...]:
    if flag.takes is Takes.NOTHING:
        if not isinstance(value, bool):
            raise WrongValue("true or false")
        return ("off" if value == (name in flag.off) else "on",)
    if flag.takes is Takes.WORD and isinstance(value, bool):
        return ("on" if value else "off",)
    items: Sequence[Any] = value if isinstance(value, list) else [value]
    return tuple(_text(flag, item, base) for item in items)


def _text(flag: Flag, value: Any, base: Path) -> str:
    if flag.metavar in WHOLE:
        if isinstance(value, bool) or not isinstance(value, int):
            raise WrongValue("a whole number")
        return str(value)
    if flag.metavar == "SECONDS" and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise WrongValue("a number of seconds")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise WrongValue("a text or a number")
    text = str(value)
    return str(path_of(text, base)) if text and flag.metavar in FILES else text


def shown(value: Any) -> str:
    """A value of a file, short enough for a message."""
    text = {True: "true", False: "false"}.get(value, repr(value)) if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
