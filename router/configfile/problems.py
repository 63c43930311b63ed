"""What is wrong with a configuration file: every problem with its place, and the error that carries them all.

Collected by reading.py and presets.py, shown by `corral config check` and by the start. Invariant: a problem names the
file, the line, the key's path and, for a name that is not known, the nearest one that is.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from router.configfile.locate import KeyPath
from router.errors import CommandError

EXIT_CONFIG = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    file: Path
    line: int
    path: KeyPath
    message: str
    nearest: str | None = None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        key = f"{dotted(self.path)}: " if self.path else ""
        guess = f"; did you mean '{self.nearest}'?" if self.nearest else ""
        return f"{where}{key}{self.message}{guess}"


class ConfigError(CommandError):
    """A configuration that is refused as a whole."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        more = f" (and {len(problems) - 1} more: corral config check {problems[0].file})" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{more}", EXIT_CONFIG, file=problems[0].file)
        self.problems = tuple(problems)


class Problems:
    """Those of one file, as they are found."""

    def __init__(self, file: Path, lines: Mapping[KeyPath, int]) -> None:
        self.file = file
        self.found: list[Problem] = []
        self._lines = lines

    def line(self, path: KeyPath) -> int:
        """Where a key stands, or the nearest table around it; 0 if nowhere."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 0)

    def where(self, path: KeyPath) -> str:
        """A key's place, for a person."""
        return f"{self.file}:{self.line(path)}: {dotted(path)}"

    def add(self, path: KeyPath, message: str, nearest: str | None = None) -> None:
        self.found.append(Problem(self.file, self.line(path), path, message, nearest))

    def unknown(self, path: KeyPath, what: str, *known: Iterable[str]) -> None:
        """A name that is not known: what it should have been the name of, and the known ones, likely ones first."""
        ways = (difflib.get_close_matches(path[-1].casefold(), list(names), n=1, cutoff=0.5) for names in known)
        self.add(path, f"no such {what}", next((matches[0] for matches in ways if matches), None))

    def check(self) -> None:
        """Raises ConfigError if there are any."""
        if self.found:
            raise ConfigError(self.in_order())

    def in_order(self) -> list[Problem]:
        """By line."""
        return sorted(self.found, key=lambda problem: problem.line)


def dotted(path: KeyPath) -> str:
    return ".".join(part if part and part.replace("-", "").replace("_", "").isalnum() else f'"{part}"' for part in path)
