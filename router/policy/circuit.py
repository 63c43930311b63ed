"""Whether a replica that failed is tried again. Pure: times come in as arguments, in seconds.

    closed ──THRESHOLD failures in a row──> open ──its time is over──> half open, one request as a probe
       └──────────────── success ───────────────────────────────────────┘ │ failure: open again, for longer

Each belongs to one replica in balancer.py. Invariant: a half-open circuit lets one request through at a time.
"""

THRESHOLD = 3  # failures in a row
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 300.0


class Circuit:
    """One replica's failures in a row."""

    def __init__(self) -> None:
        self._num_failures = 0
        self._num_ejections = 0
        self._open_until: float | None = None  # None: closed
        self._is_probing = False

    @property
    def is_ejected(self) -> bool:
        """Whether it is not closed."""
        return self._open_until is not None

    def name(self, now: float) -> str:
        if self._open_until is None:
            return "closed"
        return "open" if now < self._open_until else "half-open"

    def admits(self, now: float) -> bool:
        return self._open_until is None or (now >= self._open_until and not self._is_probing)

    def begin(self, now: float) -> None:
        """A request goes through it."""
        self._is_probing = self._open_until is not None and now >= self._open_until

    def end(self, now: float, failed: bool | None) -> None:
        """A request has ended. `failed` None says nothing about the replica."""
        if failed is None:
            self._is_probing = False
        elif failed:
            self._fail(now)
        else:
            self._num_failures = self._num_ejections = 0
            self._open_until, self._is_probing = None, False

    def _fail(self, now: float) -> None:
        self._num_failures += 1
        was_probe, self._is_probing = self._is_probing, False
        if was_probe or (self._open_until is None and self._num_failures >= THRESHOLD):
            self._open_until = now + min(FIRST_PAUSE * 2.0**self._num_ejections, LONGEST_PAUSE)
            self._num_ejections += 1
