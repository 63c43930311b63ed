"""The one place where numba's options live: how kernels are compiled, where their machine code is kept.

Every kernel is decorated with `kernel`; those that Python calls are `entry` points, with their signature, so that
`compile_entries` can compile or load all of them before the first request and say how far it is.

The cache folder is private and its name carries everything numba's own key does not see: the sources of all modules
that use this one, the numba version, the processor and the instruction set in force.
"""

import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numba.core.config


# No nnan and no ninf: masks are made of infinities, and a NaN must stay visible.
# No reassoc: a sum has one order, so that a token's result does not depend on what else is in the step.
FASTMATH = {"nsz", "arcp", "contract", "afn"}

_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy", "cache": True}

_entries: list[tuple[Any, Any]] = []


def kernel(function: Callable[..., Any]) -> Any:
    """A function compiled by numba when another kernel first calls it."""
    return numba.njit(**_OPTIONS)(function)


def entry(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """A kernel that Python calls, always with arguments of this signature."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(**_OPTIONS)(function)
        _entries.append((dispatcher, signature))
        return dispatcher

    return decorate


def choose(cases: dict[int, Any]) -> Any:
    """A kernel (key, *arguments) that calls the case of that key: numba has no table of functions, so it compares."""
    (key, case), *others = cases.items()
    if not others:

        @kernel
        def last(wanted, *arguments):  # type: ignore[no-untyped-def]
            if wanted == key:
                case(*arguments)

        return last
    rest = choose(dict(others))

    @kernel
    def either(wanted, *arguments):  # type: ignore[no-untyped-def]
        if wanted == key:
            case(*arguments)
        else:
            rest(wanted, *arguments)

    return either


def compile_entries(progress: Callable[[int, int, str], None]) -> None:
    """Compiles every entry point, or loads it from the cache. `progress` gets (done, total, name) before each and once at the end."""
    for done, (dispatcher, signature) in enumerate(_entries):
        progress(done, len(_entries), dispatcher.__name__)
        dispatcher.compile(signature)
        dispatcher.disable_compile()
    progress(len(_entries), len(_entries), "")


def cache_folder() -> Path:
    """Where this user's Corral keeps what it can make again."""
    if folder := os.environ.get("CORRAL_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "corral"


def _kernel_folder() -> Path:
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for source in sorted(package.rglob("*.py")):
        if b"kernels.jit import" in (text := source.read_bytes()) or source.parent.name == "kernels":
            digest.update(source.name.encode() + b"\0" + text)
    features = llvmlite.binding.get_host_cpu_features().flatten()
    facts = (numba.__version__, platform.machine(), llvmlite.binding.get_host_cpu_name(), features,
             os.environ.get("CORRAL_ISA", ""))
    digest.update("\0".join(facts).encode())
    return cache_folder() / "kernels" / digest.hexdigest()[:20]


def _use_private_cache() -> None:
    folder = _kernel_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    numba.core.config.CACHE_DIR = str(folder)


_use_private_cache()
