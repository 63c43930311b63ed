"""A counter that costs nothing but an addition: for what happens at every request.

Made and read by metrics.py, and written by the one thread that runs the event loop: it has no lock, which is what most
of prometheus-client's own costs. Invariant: a count never falls.
"""

from prometheus_client.core import CounterMetricFamily


class Count:
    """What was counted under one set of labels: whoever counts adds to `value`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Counter:
    """Counts by the values of its labels."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._counts: dict[tuple[str, ...], Count] = {}

    def labels(self, *values: str) -> Count:
        """The count of these values, one for each label, made when it is first asked for."""
        return self._counts.setdefault(values, Count())

    def family(self) -> CounterMetricFamily:
        """As Prometheus wants it."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in self._counts.items():
            family.add_metric(values, count.value)
        return family
