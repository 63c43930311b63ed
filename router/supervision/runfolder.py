"""The private folder of one gateway run, with the sockets of its workers and what they share.

Made by fleet.Fleet. A run holds a lock on a file in its folder; a folder whose lock is free belongs to a run that
was killed, and the next run removes it. Invariant: mode 0700, and a path short enough for a unix socket in it.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from router.errors import CommandError

PREFIX = "corral-"
MAX_SOCKET_PATH_BYTES = 107
_LONGEST_NAME = "/corral-12345678/9999999.sock"
_SETTLED_SECONDS = 60  # a younger folder may not have its lock yet


class RunFolder:
    """A folder that lives as long as the run."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        base = writable_base(environment)
        for abandoned in _abandoned(base):
            shutil.rmtree(abandoned, ignore_errors=True)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def socket(self, number: int) -> Path:
        return self.path / f"{number}.sock"

    @property
    def core_lease(self) -> Path:
        """The file in which the workers agree on whose turn it is; the first of them makes it."""
        return self.path / "turns"

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def writable_base(environment: Mapping[str, str]) -> Path:
    """Where run folders go: XDG_RUNTIME_DIR, else the folder for temporary files, else /tmp. Raises CommandError."""
    candidates = [environment.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]  # noqa: S108 (mkdtemp is safe there)
    for candidate in filter(None, candidates):
        fits = len(os.fsencode(candidate + _LONGEST_NAME)) <= MAX_SOCKET_PATH_BYTES
        if fits and os.path.isdir(candidate) and os.access(candidate, os.W_OK | os.X_OK):
            return Path(candidate)
    raise CommandError("no writable folder for the workers' sockets; set XDG_RUNTIME_DIR to a short, writable path")


def _abandoned(base: Path) -> Iterator[Path]:
    """Our own folders of runs that are over."""
    for folder in base.glob(f"{PREFIX}*"):
        try:
            info = folder.lstat()
            if info.st_uid != os.getuid() or time.time() - info.st_mtime < _SETTLED_SECONDS:
                continue
            lock = os.open(folder / "lock", os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
        except OSError:
            continue
        finally:
            os.close(lock)
