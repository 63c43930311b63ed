"""The folders inside a prefix store's directory, one for each identity: which are in use, and what others have left.

prefix_store.py calls it. Who uses a folder holds a shared lock on a file in it, which the system takes away with the
process, however that ends. Invariant: nothing is removed but blocks of folders with such a file that nobody holds, and
such a folder once it is empty; where the system has no locks, nothing at all.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

SUFFIX = ".kv"
NAME_DIGITS = 32  # of a folder
_LOCK = ".in-use"


class StoredBlock(NamedTuple):
    """A file, in the order in which files were used."""

    used: int  # ns
    path: Path
    num_bytes: int


def claim(folder: Path) -> IO[str]:
    """Makes the folder, if it is not there, and uses it until what is returned is closed. Raises OSError."""
    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # it was empty and has just been removed
            lock = (folder / _LOCK).open("a")
            if _try(lock, fcntl.LOCK_EX):
                _clear_parts(folder)
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_SH)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), (folder / _LOCK).stat()):
                    return lock
            lock.close()


def blocks_in(folder: Path) -> list[StoredBlock]:
    """Those used longest ago first."""
    blocks = []
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # another worker has made room
            stat = path.stat()
            if _is_hexadecimal(path.stem):
                blocks.append(StoredBlock(stat.st_mtime_ns, path, stat.st_size))
    return sorted(blocks)


def leftovers(folder: Path) -> list[StoredBlock]:
    """The blocks of those folders beside this one that nobody uses; those of the one used longest ago first."""
    left = []
    for other in folder.parent.iterdir():
        is_folder = len(other.name) == NAME_DIGITS and _is_hexadecimal(other.name) and not other.is_symlink()
        if is_folder and other != folder:
            with _unused(other) as is_unused:
                if is_unused and (blocks := blocks_in(other)):
                    left.append(blocks)
                elif is_unused:
                    _remove_empty(other)
    return [block for blocks in sorted(left, key=lambda blocks: blocks[-1].used) for block in blocks]


def remove_leftover(block: StoredBlock) -> None:
    """Removes a block, unless its folder is in use by now, and its folder with the last one."""
    folder = block.path.parent
    with _unused(folder) as is_unused:
        if is_unused:
            block.path.unlink(missing_ok=True)
            if not blocks_in(folder):
                _remove_empty(folder)


@contextlib.contextmanager
def _unused(folder: Path) -> Iterator[bool]:
    """Whether a folder is one of ours that nobody uses; nobody begins to, meanwhile."""
    try:
        lock = (folder / _LOCK).open("r+")
    except OSError:
        yield False
        return
    with lock:
        yield _try(lock, fcntl.LOCK_EX)


def _try(lock: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_empty(folder: Path) -> None:
    """What is not ours stays, and the folder with it."""
    with contextlib.suppress(OSError):
        _clear_parts(folder)
        (folder / _LOCK).unlink()
        folder.rmdir()


def _clear_parts(folder: Path) -> None:
    for abandoned in folder.glob(".*.part"):  # by a writer that was killed
        abandoned.unlink(missing_ok=True)


def _is_hexadecimal(name: str) -> bool:
    return len(name) % 2 == 0 and all(letter in "0123456789abcdef" for letter in name)
