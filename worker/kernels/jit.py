"""The one place where numba's options live: how kernels are compiled, where their machine code is kept.

There are three kinds. A `kernel` is compiled into each function that calls it. A `Native` is compiled once, by itself,
and called through its address with `call`: LLVM optimises a function again in every caller it is linked into, so the
large ones stand alone. An `entry` is what Python calls. The last two are compiled, or loaded, before the first request,
and only those that the model needs.

The cache folder is private and its name carries everything numba's own key does not see: the sources of all modules
that use this one, the numba version, the processor and the instruction set in force.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numba.core.config
from llvmlite import ir
from numba import types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.extending import intrinsic

from worker.kernels.instruction_sets import INSTRUCTION_SET


def cache_folder() -> Path:
    """Where this user's Corral keeps what it can make again."""
    if folder := os.environ.get("CORRAL_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "corral"


def _kernel_folder() -> Path:
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for source in sorted(package.rglob("*.py")):
        if b"kernels.jit import" in (text := source.read_bytes()) or package / "kernels" in source.parents:
            digest.update(source.name.encode() + b"\0" + text)
    features = llvmlite.binding.get_host_cpu_features().flatten()
    facts = (numba.__version__, platform.machine(), llvmlite.binding.get_host_cpu_name(), features,
             INSTRUCTION_SET.name)
    digest.update("\0".join(facts).encode())
    return cache_folder() / "kernels" / digest.hexdigest()[:20]


def _private_cache() -> Path | None:
    """The folder of compiled kernels, ready to be written; None, and a warning, where there can be none."""
    folder = _kernel_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        print(f"warning: kernels are compiled at every start: {folder}: {error.strerror}", file=sys.stderr)
        return None
    numba.core.config.CACHE_DIR = str(folder)
    return folder


CACHE = _private_cache()
SAVING = "saving"  # the lock in it

# No fast math: a sum has one order, a NaN stays visible, and no estimate of a reciprocal or of a root, which every
# processor family makes in its own way, gets into a result. Where a product and a sum are to be one, kernels say fma.
_OPTIONS: dict[str, Any] = {"error_model": "numpy"}

_LETTERS = {"i": types.int64, "f": types.float32}


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else, in this process or another, is in here with the same path. Raises OSError."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Kept(FunctionCache):  # type: ignore[misc]
    """Machine code on disk. Where the disk takes no more, it stays in memory, and a warning says so.

    All closures of a function are in one index, which numba reads, changes and writes: done by two processes at a time,
    that could leave one's code under the other's name.
    """

    def save_overload(self, signature: Any, compiled: Any) -> None:
        assert CACHE is not None
        try:
            with locked(CACHE / SAVING):
                super().save_overload(signature, compiled)
        except OSError as error:
            _warn_of_disk(f"{CACHE}: {error.strerror}")


@functools.cache
def _warn_of_disk(problem: str) -> None:
    print(f"warning: some kernels are compiled at every start: {problem}", file=sys.stderr)


def _keeping(compiled: Any, function: Callable[..., Any]) -> Any:
    """What numba's cache=True does, with a cache of ours."""
    if CACHE is not None:
        compiled._cache = _Kept(function)
    return compiled


def kernel(function: Callable[..., Any]) -> Any:
    """A function compiled into the kernels that call it."""
    return _keeping(numba.njit(nogil=True, **_OPTIONS)(function), function)


def inlined(function: Callable[..., Any]) -> Any:
    """A kernel that becomes part of its caller before anything is optimised: for thin layers around others."""
    return _keeping(numba.njit(inline="always", nogil=True, **_OPTIONS)(function), function)


class Native:
    """A kernel with an address, for `call`. It takes int64 and float32 and returns nothing."""

    def __init__(self, name: str, parameters: str, function: Callable[..., None]) -> None:
        """`parameters` has a letter for each: i for int64, f for float32."""
        self.name, self._function = name, function
        self._signature = types.void(*[_LETTERS[letter] for letter in parameters])
        self._compiled: Any = None

    def compile(self) -> None:
        """Compiles it or loads it from the cache; once."""
        if self._compiled is None:
            signature = self._signature.args, self._signature.return_type
            compiled = _keeping(CFunc(self._function, signature, {}, _OPTIONS), self._function)
            compiled.compile()
            self._compiled = compiled

    @property
    def address(self) -> int:
        """Where the machine code is; only after `compile`."""
        return int(self._compiled.address)


class Entry:
    """A kernel that Python calls with arguments of one signature, without holding the interpreter's lock."""

    def __init__(self, signature: Any, function: Callable[..., Any]) -> None:
        self.name, self._signature = function.__name__, signature
        self._dispatcher = kernel(function)

    def compile(self) -> None:
        """Compiles it or loads it from the cache; once."""
        if not self._dispatcher.overloads:
            self._dispatcher.compile(self._signature)
            self._dispatcher.disable_compile()

    def __call__(self, *arguments: Any) -> Any:
        return self._dispatcher(*arguments)


def native(parameters: str) -> Callable[[Callable[..., None]], Native]:
    """Decorates the function of a Native: "iif" for (int64, int64, float32)."""
    return lambda function: Native(function.__name__, parameters, function)


def entry(signature: Any) -> Callable[[Callable[..., Any]], Entry]:
    """Decorates the function of an Entry."""
    return lambda function: Entry(signature, function)


@intrinsic
def call(typing: Any, address: Any, arguments: Any) -> Any:
    """Calls the Native at an address with a tuple of int64 and float32, which must be what it takes."""
    if any(argument not in _LETTERS.values() for argument in arguments):
        return None

    def lower(context: Any, b: Any, signature: Any, values: Any) -> Any:
        function = ir.FunctionType(ir.VoidType(), [context.get_value_type(argument) for argument in arguments])
        unpacked = [b.extract_value(values[1], i) for i in range(len(arguments))]
        b.call(b.inttoptr(values[0], function.as_pointer()), unpacked)
        return context.get_dummy_value()

    return types.void(types.int64, arguments), lower
