"""Requests that did not go the straight way, counted: failovers, fallbacks, shadow copies, refusals.

Owned by metrics.py; call.py, policy/shadow.py and access.py say what happened. Invariant: as there, no label comes from
a request.
"""

import enum
from collections.abc import Iterable

from prometheus_client import Metric

from router.config import Reason
from router.observe.counter import Counter

_CONTINUED, _FAILED = "continued", "failed"  # what became of a request that lost its replica


class ShadowEnd(enum.StrEnum):
    """What became of a copy."""

    SAME = "same"
    DIFFERS = "differs"
    FAILED = "failed"  # where the answer did not
    CUT = "cut"  # there was nothing to compare it with: the answer was not complete
    DROPPED = "dropped"  # it was not sent: it would have been in somebody's way


class Refusal(enum.StrEnum):
    """Why a request was refused."""

    QUEUE_FULL = "queue-full"
    QUEUE_TIMEOUT = "queue-timeout"
    LIMITS = "limits"  # of the key
    RIGHTS = "rights"  # that the key has not
    KEY = "key"  # none, or none that is known


class Detours:
    """The counts of this gateway."""

    def __init__(self) -> None:
        self._failovers = Counter(
            "corral_failovers",
            "Requests that lost their replica, by whether another one went on with them.",
            "model",
            "result",
        )
        self._fallbacks = Counter(
            "corral_fallbacks", "Requests passed on to another model.", "alias", "model", "fallback", "reason"
        )
        self._shadows = Counter(
            "corral_shadow_copies", "Copies of requests by what became of them.", "alias", "model", "result"
        )
        self._refused = Counter("corral_refused", "Requests refused.", "reason", "model")
        for reason in Refusal:  # some are refused before it is known for which model they are
            self._refused.labels(reason, "")

    def know(self, model: str) -> None:
        """From now on the counts of the model are told, even where there was nothing to count yet."""
        for reason in Refusal:
            self._refused.labels(reason, model)
        for result in (_CONTINUED, _FAILED):
            self._failovers.labels(model, result)

    def moved(self, model: str, num_moves: int) -> None:
        """Another replica went on with a request, so many times."""
        self._failovers.labels(model, _CONTINUED).value += num_moves

    def stranded(self, model: str) -> None:
        """No other replica could go on with a request."""
        self._failovers.labels(model, _FAILED).value += 1

    def fell_back(self, alias: str, model: str, fallback: str, reason: Reason) -> None:
        """A request for `alias` went on to another model, because the first could not serve it."""
        self._fallbacks.labels(alias, model, fallback, reason).value += 1

    def shadowed(self, alias: str, model: str, end: ShadowEnd) -> None:
        """A copy of a request for `alias` was due to `model`."""
        self._shadows.labels(alias, model, end).value += 1

    def refused(self, reason: Refusal, model: str) -> None:
        """`model` is empty where it was not looked up yet."""
        self._refused.labels(reason, model).value += 1

    def collect(self) -> Iterable[Metric]:
        """As Prometheus wants them."""
        yield from (each.family() for each in (self._failovers, self._fallbacks, self._shadows, self._refused))
