"""Servers of others that tests run Corral with: Debian's nginx and Redis."""

import os
import shutil

import pytest


def require(*programs: str) -> None:
    """Leaves a test out where a program is missing; in continuous integration (CI is set) the test fails."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"not installed: {', '.join(missing)}")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
