"""What came of reloads of the configuration, told as Prometheus tells it of its own.

Owned by metrics.py; reload.py says what happened. Invariant: both results are told from the start on, so that an alert
on the first refusal has something to compare with; the configuration of the start counts as a success.
"""

import time
from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily, Metric

from router.observe.counter import Counter


class Reloads:
    """The counts of this gateway."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock`: seconds since 1970."""
        self._clock = clock
        self._results = Counter("corral_config_reloads", "Reloads of the configuration.", "result")
        self._applied, self._refused = (self._results.labels(result) for result in ("applied", "refused"))
        self._was_applied = True
        self._last_success = clock()

    def applied(self) -> None:
        self._applied.value += 1
        self._was_applied, self._last_success = True, self._clock()

    def refused(self) -> None:
        self._refused.value += 1
        self._was_applied = False

    def collect(self) -> Iterable[Metric]:
        yield self._results.family()
        yield GaugeMetricFamily(
            "corral_config_last_reload_successful", "Whether the last reload was applied.", self._was_applied
        )
        yield GaugeMetricFamily(
            "corral_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was read.",
            self._last_success,
        )
