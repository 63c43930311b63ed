"""Sleeping until a word of shared memory changes, and waking one sleeper of several (futex(2)). lease.py uses it.

Invariant: the kernel compares the word and puts the caller to sleep in one step, so no change between is missed.
"""

import ctypes
import errno
import os
import platform
import sys
import time

_CALLS = {"x86_64": 202, "aarch64": 98}
_WAIT_BITSET, _WAKE_BITSET = 9, 10  # between processes; the time of waiting is absolute
_EVERYBODY = 0x7FFFFFFF


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))


class Futex:
    """The 32-bit word at an address; on the machines named above that is the lower half of a 64-bit word there."""

    def __init__(self, address: int) -> None:
        """Raises OSError where there are no futexes."""
        number = _CALLS.get(platform.machine()) if sys.platform == "linux" else None
        if number is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self._number, self._address = number, address
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        self._call.argtypes = (
            ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32,
            ctypes.POINTER(_Time), ctypes.c_void_p, ctypes.c_uint32,
        )  # fmt: skip

    def wait(self, value: int, sleeper: int, seconds: float) -> bool:
        """Sleeps while the word is the lower half of `value`, as sleeper 0 to 31; False after so many seconds."""
        until = _Time(*divmod(time.monotonic_ns() + int(seconds * 1e9), 1_000_000_000))
        status = self._call(
            self._number, self._address, _WAIT_BITSET, value & 0xFFFFFFFF, ctypes.byref(until), None, 1 << sleeper
        )
        return status == 0 or ctypes.get_errno() != errno.ETIMEDOUT

    def wake(self, *sleepers: int) -> None:
        bits = sum(1 << sleeper for sleeper in sleepers)
        self._call(self._number, self._address, _WAKE_BITSET, _EVERYBODY, None, None, bits)
