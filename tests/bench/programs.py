"""Programs that stand in for other engines."""

import stat
from pathlib import Path


def program(path: Path, text: str) -> Path:
    """A shell script that can be executed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
