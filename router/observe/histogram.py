"""A histogram that costs little for each value: for what happens once per token.

Made and read by metrics.py, and written by the one thread that runs the event loop: it has no lock, which is what most
of prometheus-client's own costs. A Series may stand alone, as in fleet/tally.py. Invariant: the buckets of a series are
cumulative only when they are read.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.utils import floatToGoString


class Series:
    """The values of one label; a value equal to a bound belongs below it."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class Histogram:
    """Series by the value of one label. Bounds ascend."""

    def __init__(self, name: str, text: str, label: str, bounds: Sequence[float]) -> None:
        self._name, self._text, self._label = name, text, label
        self._bounds = tuple(bounds)
        self._series: dict[str, Series] = {}

    def labels(self, value: str) -> Series:
        """The series of a label's value, made when it is first asked for."""
        return self._series.setdefault(value, Series(self._bounds))

    def family(self) -> HistogramMetricFamily:
        """As Prometheus wants it."""
        return histogram_of(self._name, self._text, self._label, self._series)


def histogram_of(name: str, text: str, label: str, series: Mapping[str, Series]) -> HistogramMetricFamily:
    """Series by the values of a label as Prometheus wants them."""
    family = HistogramMetricFamily(name, text, labels=(label,))
    for value, each in series.items():
        bounds = [*map(floatToGoString, each.bounds), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(each.counts)), strict=True))
        family.add_metric((value,), buckets, each.total)
    return family
