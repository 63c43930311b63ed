"""When a crashed worker is started again, and what its death is called. Pure: times and chance come in as arguments.

Called by supervisor.WorkerProcess, and by remote.RemoteWorker for its connections. One that had lived long is back at
once; every crash soon after another one doubles the delay. Invariant: a worker that cannot live is started a bounded
number of times.
"""

import random
import signal
from collections import deque
from collections.abc import Callable

from router.config import SupervisionConfig

_SIGNAL_CAUSES = {
    signal.SIGKILL: "killed, probably out of memory",
    signal.SIGBUS: "bus error, the model file may have changed while it was mapped",
    signal.SIGILL: "illegal instruction, this processor lacks one that was compiled in",
    signal.SIGSEGV: "segmentation fault",
    signal.SIGABRT: "aborted",
    signal.SIGTERM: "terminated from outside",
}


class RestartPolicy:
    """The crashes of one worker so far, and the delay they call for."""

    def __init__(self, config: SupervisionConfig, chance: Callable[[], float] = random.random) -> None:
        self._config = config
        self._chance = chance  # uniform in [0, 1)
        self._crashes: deque[float] = deque()
        self._in_a_row = 0

    def after_crash(self, now: float, lived: float) -> float | None:
        """Seconds to wait before the next start; None when it has crashed too often. Times in seconds."""
        if lived >= self._config.healthy_after:
            self._crashes = deque((now,))
            self._in_a_row = 0
            return 0.0
        self._crashes.append(now)
        while self._crashes[0] < now - self._config.crash_window:
            self._crashes.popleft()
        if len(self._crashes) > self._config.max_crashes:
            return None
        delay = min(self._config.first_delay * 2.0**self._in_a_row, self._config.longest_delay)
        self._in_a_row += 1
        return delay * (1 + self._config.jitter * (2 * self._chance() - 1))


def shell_code(returncode: int) -> int:
    """An exit status as a shell has it: 128 and the number of the signal, where one ended the process."""
    return returncode if returncode >= 0 else 128 - returncode


def describe_exit(returncode: int) -> str:
    """An exit status in words: a negative one is the number of the signal that ended the process."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        received = signal.Signals(-returncode)
    except ValueError:
        return f"signal {-returncode}"
    cause = _SIGNAL_CAUSES.get(received)
    return f"{received.name} ({cause})" if cause else received.name
