"""What the file system tells of a model, without a look inside: how large it is, and whether it is still the same.

Called by footprint.py before anything is loaded, by options/modelset.py when a configuration is read, and by
supervision/origin.py when a worker loads. Invariant: a file that is not there counts as empty; its worker says what is
wrong.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

Contents = tuple[object, ...]  # differ if a model's files may have; compared, never read

_PART = re.compile(r"(.+-)\d{5}(-of-\d{5}\.gguf)")


def size_on_disk(file: Path) -> int:
    """Bytes of a GGUF file, or of all the parts of a split one."""
    return sum(map(_size, _parts(file)))


def contents_of(file: Path | None, arguments: Sequence[str] = ()) -> Contents:
    """Of a model's file with all its parts, and of the files that its worker's arguments name, as they are now."""
    named = (Path(each) for each in arguments if each.startswith(os.sep))
    files = (*(_parts(file) if file is not None else ()), *(each for each in named if each.is_file()))
    return tuple((str(each), _stamp(each)) for each in sorted(files))


def unless_changed(before: Contents, look: Callable[[], Contents]) -> Contents:
    """What was loaded between the look before and one now: if they differ, something that nothing else equals."""
    return before if look() == before else (object(),)


def _parts(file: Path) -> Iterator[Path]:
    part = _PART.fullmatch(file.name)
    if part is None:
        yield file
        return
    first, last = part.groups()
    yield from (each for each in file.parent.glob("*.gguf") if _is_part(each.name, first, last))


def _stamp(file: Path) -> object:
    """Another one for another file, behind all links; None: there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _is_part(name: str, first: str, last: str) -> bool:
    return name.startswith(first) and name.endswith(last) and _PART.fullmatch(name) is not None


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
