"""Paths as people write them, on a command line or in a file.

Called by whoever reads one. Invariant: a path that is returned can be told of in every message and answer; whether
something is there is for the caller to see.
"""

from pathlib import Path

from router.errors import CommandError

_EXIT_USAGE = 2


class BadPath(CommandError):
    """A text that is no path here."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, _EXIT_USAGE)


def path_of(text: str, base: Path = Path()) -> Path:
    """The path, relative to `base`; ~ and ~USER are homes. Raises BadPath."""
    if not text:
        raise BadPath("the path is empty")
    if "\0" in text:
        raise BadPath("a path has no NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadPath(f"{text!r}: a path must be UTF-8; rename the file") from None
    try:
        return base / Path(text).expanduser()
    except RuntimeError:
        user = Path(text).parts[0]
        raise BadPath(f"{text}: nobody's home is {user}" if user != "~" else f"{text}: this user has no home") from None
