"""Which process a number in shared memory means, and whether it can go on computing. lease.py asks it.

Invariant: an identity is a process id with the time at which the process began, so an id given out again is another.
"""

import os
from pathlib import Path

_PID_BITS = 22  # the kernel's limit; above them the start in clock ticks since boot
_GONE, _STOPPED = frozenset("ZX"), frozenset("Tt")


def own_identity() -> int:
    pid = os.getpid()
    _, started = _state(pid)
    return started << _PID_BITS | pid


def exists(identity: int) -> bool:
    return _letter(identity) not in _GONE


def can_compute(identity: int) -> bool:
    """It exists and no signal or debugger has stopped it."""
    return _letter(identity) not in _GONE | _STOPPED


def _letter(identity: int) -> str:
    letter, started = _state(identity & (1 << _PID_BITS) - 1)
    return letter if started == identity >> _PID_BITS else "X"


def _state(pid: int) -> tuple[str, int]:
    """The letter of proc(5), X for a process that is not there, and when it began."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "X", 0
    letter, *numbers = line[line.rindex(")") + 2 :].split()
    return letter, int(numbers[18])
