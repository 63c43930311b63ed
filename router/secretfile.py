"""Files whose content is a secret: keys, tokens, private keys of certificates. One rule for all of them.

Nobody but their owner may read or change them; one of root's may be read by our group, which is how a secret is mounted
for a process that is not root. Called by everyone in router/ who reads such a file. Invariant: nothing of a file is
used before its mode was judged.
"""

import errno
import os
import stat
from pathlib import Path


class Exposed(PermissionError):
    """Others may read or change the file. `strerror` gives its mode, and what to do."""

    def __init__(self, file: Path, mode: int) -> None:
        says = f"others may read or change it (mode {mode:04o}) and it holds a secret; run: chmod 600 {file}"
        super().__init__(errno.EACCES, says, str(file))


def read_secret(file: Path) -> bytes:
    """Raises Exposed, OSError."""
    with file.open("rb") as opened:
        _judge(file, os.fstat(opened.fileno()))
        return opened.read()


def check_private(file: Path) -> None:
    """For a file that somebody else reads. Raises Exposed, OSError."""
    _judge(file, file.stat())


def _judge(file: Path, found: os.stat_result) -> None:
    rights_of_group = stat.S_IRWXG
    if found.st_uid == 0 != os.geteuid():
        rights_of_group &= ~stat.S_IRGRP
    if found.st_mode & (rights_of_group | stat.S_IRWXO):
        raise Exposed(file, stat.S_IMODE(found.st_mode))
