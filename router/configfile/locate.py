"""Where each key of a TOML text stands. Called by reading.py and tomltext.py for their error messages.

tomllib gives values without positions; this scanner gives positions without values. Invariant: the text has been read
by tomllib, so that it is well formed; nothing is checked here.
"""

import re
import tomllib
from collections.abc import Callable, Mapping

KeyPath = tuple[str, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK_OR_COMMA = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|' + r"'''.*?'{3,5}|" + r'"(?:\\.|[^"\\])*"|' + r"'[^']*'",
    re.DOTALL,
)
_OTHER_VALUE = re.compile(r"[^,\]}\n#]*")


def locate(text: str) -> Mapping[KeyPath, int]:
    """The line, from 1, of every table and key; of items of arrays by their index as text."""
    return _Scanner(text).lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.lines: dict[KeyPath, int] = {}
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._at < len(text):
            if self._peek() == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _header(self) -> KeyPath:
        """ "[a.b]" or "[[a.b]]"."""
        while self._peek() == "[":
            self._at += 1
        path = self._key()
        self._note(path)
        while self._peek() == "]":
            self._at += 1
        return path

    def _pair(self, table: KeyPath) -> None:
        path = (*table, *self._key())
        self._note(path)
        self._at += 1  # "="
        self._value(path)

    def _key(self) -> KeyPath:
        """A key with its dots; what follows is not a dot."""
        parts = [self._key_part()]
        while self._peek() == ".":
            self._at += 1
            parts.append(self._key_part())
        return tuple(parts)

    def _key_part(self) -> str:
        self._skip(_SPACE)
        quoted = self._peek() in "\"'"
        part = self._skip(_STRING if quoted else _BARE)
        self._skip(_SPACE)
        return str(tomllib.loads(f"x = {part}")["x"]) if quoted else part

    def _value(self, path: KeyPath) -> None:
        self._skip(_SPACE)
        match self._peek():
            case "{":
                self._items("}", lambda _: self._pair(path))
            case "[":
                self._items("]", lambda index: self._item((*path, str(index))))
            case '"' | "'":
                self._skip(_STRING)
            case _:
                self._skip(_OTHER_VALUE)

    def _item(self, path: KeyPath) -> None:
        self._note(path)
        self._value(path)

    def _items(self, end: str, read: Callable[[int], None]) -> None:
        """An array or an inline table, brackets included."""
        self._at += 1
        index = 0
        self._skip(_BLANK)
        while self._peek() != end:
            read(index)
            index += 1
            self._skip(_BLANK_OR_COMMA)
        self._at += 1

    def _note(self, path: KeyPath) -> None:
        line = self._text.count("\n", 0, self._at) + 1
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        text = found[0] if found else ""
        self._at += len(text)
        return text
