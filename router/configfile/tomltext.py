"""A TOML text as tables, with everything refused that would break whoever reads them.

Called by reading.py and keys/keyfile.py. Invariant: what is returned nests at most MAX_DEPTH deep and has no NUL in any
name or text, so that all of it can be walked and every text of it may name a file.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from router.configfile.locate import KeyPath, locate
from router.configfile.problems import ConfigError, Problem, Problems

MAX_DEPTH = 32  # of tables and arrays; a configuration has use for five
_TOO_DEEP = f"tables and arrays may nest {MAX_DEPTH} deep"


def parse_toml(text: str, file: Path) -> dict[str, Any]:
    """The tables of a TOML text. Raises ConfigError naming the line."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, _, place = str(error).partition(" (at ")
        digits = place.partition("line ")[2].partition(",")[0]
        line = int(digits) if digits.isdigit() else text.count("\n") + 1
        raise _refusal(file, line, f"not valid TOML: {message}") from None
    except RecursionError:
        raise _refusal(file, 0, _TOO_DEEP) from None
    except ValueError as error:  # a number with thousands of digits
        raise _refusal(file, 0, f"not valid TOML: {error}") from None
    if any(len(path) > MAX_DEPTH for path, _ in _walk(tables)):
        raise _refusal(file, 0, _TOO_DEEP)
    _check_texts(tables, text, file)
    return tables


def _refusal(file: Path, line: int, message: str) -> ConfigError:
    return ConfigError([Problem(file, line, (), message)])


def _check_texts(tables: dict[str, Any], text: str, file: Path) -> None:
    wrong = [path for path, value in _walk(tables) if "\0" in path[-1] or (isinstance(value, str) and "\0" in value)]
    if wrong:
        problems = Problems(file, locate(text))
        for path in wrong:
            problems.add(path, "a NUL character (\\u0000) can stand in no name, path or text")
        problems.check()


def _walk(tables: dict[str, Any]) -> Iterator[tuple[KeyPath, Any]]:
    """Every value with its path, without recursion; nothing is entered that lies deeper than MAX_DEPTH."""
    left: list[tuple[KeyPath, Any]] = [((name,), value) for name, value in tables.items()]
    while left:
        path, value = left.pop()
        yield path, value
        inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        if len(path) <= MAX_DEPTH:
            left += [((*path, str(name)), each) for name, each in inside]
