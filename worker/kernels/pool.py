"""The compute threads: parked in one native function for life, woken for a step, meeting at barriers inside it.

The engine thread is thread 0 and computes too. Waiting is always the same: spin for a while that adapts, then sleep on
a futex, because the gateway and other workers share these cores. A pure spin collapses when there are more threads than
cores; so does yielding, which gives the core away for a whole time slice, where a sleeper's core pulls in the thread it
waits for.
Every counter has a cache line of its own. Only the engine thread starts and stops steps.
"""

import platform
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from worker.kernels.jit import kernel, native

# Offsets of the control words, int32, each in its own cache line.
ARRIVED, GENERATION, SLEEPERS, PATIENCE, TICKET, IDLE_SLEEPERS, IDLE_PATIENCE, STOP = (64 * line for line in range(8))
CONTROL_BYTES = 64 * 8
MOST_THREADS = 1 << 10  # less one: the ticket's low digits are a number of threads
_MOST_STEPS = 1 << 21  # numbers of steps before they begin again

# Turns of a spin, 20 to 40 nanoseconds each; even, because the lowest bit says that the last spin was in vain.
_FEWEST_SPINS, _MOST_SPINS, _SPINS_WON = 400, 8000, 400
_MACHINE = platform.machine()
_FUTEX_CALL = {"x86_64": 202, "aarch64": 98}[_MACHINE]
_WAIT_PRIVATE, _WAKE_PRIVATE = 128, 129

_I32, _I64 = ir.IntType(32), ir.IntType(64)


@intrinsic
def _fetch_add(typing: Any, address: Any, value: Any) -> Any:
    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return b.atomic_rmw("add", b.inttoptr(arguments[0], _I32.as_pointer()), arguments[1], "seq_cst")

    return types.int32(types.intp, types.int32), lower


@intrinsic
def _read(typing: Any, address: Any) -> Any:
    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return b.load_atomic(b.inttoptr(arguments[0], _I32.as_pointer()), "seq_cst", 4)

    return types.int32(types.intp), lower


@intrinsic
def _write(typing: Any, address: Any, value: Any) -> Any:
    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        b.store_atomic(arguments[1], b.inttoptr(arguments[0], _I32.as_pointer()), "seq_cst", 4)
        return context.get_dummy_value()

    return types.void(types.intp, types.int32), lower


@intrinsic
def _pause(typing: Any) -> Any:
    """Tells the processor that this is a spin, where it has an instruction for that."""

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        if _MACHINE == "x86_64":
            nothing = ir.FunctionType(ir.VoidType(), [])
            b.call(cgutils.get_or_insert_function(b.module, nothing, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), lower


@intrinsic
def _futex(typing: Any, address: Any, operation: Any, value: Any) -> Any:
    """The system call futex(address, operation, value, no timeout)."""

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        syscall = cgutils.get_or_insert_function(b.module, ir.FunctionType(_I64, [_I64], var_arg=True), "syscall")
        address, operation, value = arguments
        return b.call(syscall, [_I64(_FUTEX_CALL), address, b.sext(operation, _I64), b.sext(value, _I64), _I64(0)])

    return types.int64(types.intp, types.int32, types.int32), lower


@kernel
def _wait_for_change(word, old, sleepers, patience):
    """Returns when the word no longer holds `old`.

    patience: address of the turns to spin before sleeping. It grows while spins end well and halves when two in a row
    were in vain: where every thread has its core, a sleep (tens of microseconds to wake from) is worth avoiding, also
    after somebody else has had one for a moment; where not, a spinning thread may hold the very core that the one it
    waits for needs.
    """
    held = _read(patience)
    turns, was_in_vain = held // 2 * 2, held % 2 == 1
    for _ in range(turns):
        if _read(word) != old:
            _write(patience, np.int32(min(_MOST_SPINS, turns + _SPINS_WON)))
            return
        _pause()
    fewer = max(_FEWEST_SPINS, turns // 2) if was_in_vain else turns
    _write(patience, np.int32(fewer // 2 * 2 + 1))
    _fetch_add(sleepers, np.int32(1))
    while _read(word) == old:
        _futex(word, np.int32(_WAIT_PRIVATE), old)
    _fetch_add(sleepers, np.int32(-1))


@kernel
def _change(word, new, sleepers):
    """Sets the word and wakes whoever sleeps on it."""
    _write(word, new)
    if _read(sleepers) > 0:
        _futex(word, np.int32(_WAKE_PRIVATE), np.int32(1 << 30))


@native("ii")
def barrier(control, num_threads):
    """Returns when all threads of the step have come here."""
    generation = _read(control + GENERATION)
    if _fetch_add(control + ARRIVED, np.int32(1)) == num_threads - 1:
        _write(control + ARRIVED, np.int32(0))
        _change(control + GENERATION, np.int32(generation + 1), control + SLEEPERS)
    else:
        _wait_for_change(control + GENERATION, generation, control + SLEEPERS, control + PATIENCE)


@kernel
def start_step(control, num_threads):
    """Thread 0: lets the parked threads go; the first `num_threads`, itself among them, have a part in the step.

    The ticket says both that there is a new step and for whom: a thread without a part may look at it late.
    """
    number = _read(control + TICKET) // MOST_THREADS + 1
    _change(control + TICKET, np.int32(number % _MOST_STEPS * MOST_THREADS + num_threads), control + IDLE_SLEEPERS)


@kernel
def num_participants(ticket):
    """How many threads have a part in the ticket's step."""
    return np.int64(ticket % MOST_THREADS)


@kernel
def wait_for_step(control, ticket):
    """A parked thread: waits until the ticket is no longer `ticket`; the new ticket, or -1 to end."""
    _wait_for_change(control + TICKET, ticket, control + IDLE_SLEEPERS, control + IDLE_PATIENCE)
    if _read(control + STOP) != 0:
        return np.int32(-1)
    return _read(control + TICKET)


@kernel
def _stop(control):
    _write(control + STOP, np.int32(1))
    start_step(control, 0)


class ThreadPool:
    """Threads 1 .. num_threads - 1, each inside `parked(thread)` until `close`."""

    def __init__(self, num_threads: int, parked: Callable[[int, int], None]) -> None:
        """`parked(control, thread)` is native code that loops on wait_for_step and releases the GIL."""
        self._memory = np.zeros(CONTROL_BYTES + 64, np.uint8)
        self.control = -(-self._memory.ctypes.data // 64) * 64
        self.num_threads = num_threads
        self._threads = [
            threading.Thread(target=parked, args=(self.control, thread), name=f"compute-{thread}", daemon=True)
            for thread in range(1, num_threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def thread_ids(self) -> list[int]:
        """The system's."""
        return [thread.native_id for thread in self._threads if thread.native_id is not None]

    def close(self) -> None:
        """Ends the parked threads. No step may be running."""
        _stop(self.control)
        for thread in self._threads:
            thread.join()
