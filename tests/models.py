"""The real model that tests read: pulled once for a test run, by the command a user would type."""

import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path


@lru_cache
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, Q4_1. CORRAL_TEST_SMOLLM2 names a file to take instead of the catalogue's."""
    if given := os.environ.get("CORRAL_TEST_SMOLLM2"):
        return Path(given)
    pulled = subprocess.run([sys.executable, "-m", "router", "pull", "smollm2"], capture_output=True, text=True)
    assert pulled.returncode == 0, f"corral pull smollm2 failed:\n{pulled.stderr}"
    return Path(pulled.stdout.splitlines()[-1])
