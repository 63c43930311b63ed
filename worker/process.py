"""What a worker sets up for itself as a process: its name, its death with its parent, its memory, its words.

Called by worker/program.py. Standard error speaks to a person on a terminal, or in lines to the supervisor: progress
as one JSON object per line, everything else as text.
"""

import ctypes
import faulthandler
import gc
import logging
import mmap
import os
import resource
import signal
import sys
import threading
from pathlib import Path

import orjson

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_SWITCH_SECONDS = 1e-4  # after a step the engine must not wait for the event loop's thread


def set_up() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setswitchinterval(_SWITCH_SECONDS)
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)


def take_name(name: str) -> None:
    """What lists of processes call this one, in at most 15 bytes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())


def die_with_parent() -> None:
    """Ends this process when the thread that started it ends, where the system can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with(parent_fd: int) -> None:
    """Ends this process as soon as the other end of the pipe is closed, however that comes about."""
    die_with_parent()

    def wait() -> None:
        while os.read(parent_fd, 1):
            pass
        os._exit(1)

    os.fstat(parent_fd)
    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def settle() -> None:
    """What is loaded stays: no collection looks at it again, and what loading alone needed goes."""
    gc.collect()
    gc.freeze()
    gc.enable()
    forget_library("libllvmlite")
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def forget_library(name: str) -> None:
    """Lets go of the resident pages of a library's code; what is used again comes back from its file.

    The compiler is needed to load kernels and then never again. Only code: read-only data may hold relocated addresses,
    which no file has.
    """
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, rights, *_, path = [*line.split(maxsplit=5), ""][:6]
        if name in path and rights == "r-xp":
            begin, end = (int(address, 16) for address in addresses.split("-"))
            libc.madvise(begin, end - begin, mmap.MADV_DONTNEED)


class Progress:
    """Says how far loading is, whenever that has changed by a percent."""

    def __init__(self) -> None:
        self._said = ("", -1)
        self._on_terminal = sys.stderr.isatty()

    def __call__(self, stage: str, fraction: float) -> None:
        said = (stage, int(fraction * 100))
        if said == self._said:
            return
        new_line = "\n" if self._said[0] not in ("", stage) else "\r"
        self._said = said
        if self._on_terminal:
            print(f"{new_line}{stage} {said[1]:3d} %", end="", file=sys.stderr, flush=True)
        else:
            line = {"event": "progress", "stage": stage, "progress": round(fraction, 4)}
            print(orjson.dumps(line).decode(), file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._on_terminal:
            print(file=sys.stderr)
