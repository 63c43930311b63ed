"""How much memory there is for this gateway and its workers: the machine's, or what its control group may take.

Called by settings.py. Invariant: reads only.
"""

import os
from collections.abc import Sequence
from pathlib import Path

LIMIT_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # versions 2, 1


def usable_bytes(limit_files: Sequence[Path] = LIMIT_FILES) -> int:
    """The least of the machine's memory and the control group's limit."""
    limits = (_limit(file) for file in limit_files)
    return min(
        [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *(limit for limit in limits if limit is not None)]
    )


def _limit(file: Path) -> int | None:
    """None where there is none, which the file says as "max"."""
    try:
        text = file.read_text("ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
