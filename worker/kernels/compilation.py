"""Compiles what a model needs before its first request: once per machine, on all cores, saying how far it is.

load.py calls `compile_all`. Other processes (worker/warm.py) compile into the shared cache, from which this one loads:
numba compiles one function at a time in a process, and what compiling leaves in memory would stay there as long as the
model does, in a nursery even for every replica. A file lock lets only one worker compile: the others wait and find
everything done. Invariant: whatever becomes of the helpers and the cache, every kernel is compiled at the end.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from worker.kernels.jit import CACHE, Entry, Native, locked

Kernel = Native | Entry
Progress = Callable[[int, int, str], None]  # kernels done, kernels in all, the next one's name


def compile_all(kernels: Sequence[Kernel], progress: Progress) -> None:
    """Compiles kernels, the slowest first, or loads them from the cache; reports before each and at the end."""
    if CACHE is not None:
        with locked(CACHE / "lock"):
            missing = [kernel for kernel in kernels if not _mark(CACHE, kernel).exists()]
            if missing:
                _Round(missing, CACHE, progress).run(min(len(os.sched_getaffinity(0)), len(missing)))
    for kernel in kernels:
        kernel.compile()
    progress(len(kernels), len(kernels), "")


class _Round:
    """One compilation of kernels that are not in the cache, by helpers."""

    def __init__(self, kernels: Sequence[Kernel], cache: Path, progress: Progress) -> None:
        self._waiting, self._cache, self._progress = list(kernels), cache, progress
        self._num_kernels, self._num_done = len(kernels), 0
        self._lock = threading.Lock()

    def run(self, num_helpers: int) -> None:
        feeders = [threading.Thread(target=self._feed_helper) for _ in range(num_helpers)]
        for feeder in feeders:
            feeder.start()
        for feeder in feeders:
            feeder.join()

    def _feed_helper(self) -> None:
        """Gives a helper process one name after the other. What it fails to compile, `compile_all` compiles."""
        command = [sys.executable, "-P", "-m", "worker.warm"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as helper:  # noqa: S603
            assert helper.stdin is not None and helper.stdout is not None
            while helper.stdout.readline() == "ready\n" and (kernel := self._next()) is not None:
                print(kernel.name, file=helper.stdin, flush=True)
                if helper.stdout.readline() != "done\n":
                    break
                self._finish(kernel)
            helper.stdin.close()

    def _next(self) -> Kernel | None:
        with self._lock:
            if not self._waiting:
                return None
            self._progress(self._num_done, self._num_kernels, self._waiting[0].name)
            return self._waiting.pop(0)

    def _finish(self, kernel: Kernel) -> None:
        with contextlib.suppress(OSError):  # a full disk: it is compiled again at the next start
            _mark(self._cache, kernel).touch()
        with self._lock:
            self._num_done += 1


def _mark(cache: Path, kernel: Kernel) -> Path:
    """The empty file that says that a kernel is in the cache."""
    return cache / f"{kernel.name.replace(' ', '-')}.compiled"
