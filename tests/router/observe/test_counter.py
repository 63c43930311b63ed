from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client import Counter as TheirCounter

from router.observe.counter import Counter


class Told:
    """A registry of one counter."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    def collect(self) -> Iterable[Metric]:
        yield self._counter.family()


def test_a_counter_reads_as_the_client_librarys_own() -> None:
    ours, registry = Counter("requests", "Requests.", "route", "status"), CollectorRegistry()
    theirs = TheirCounter("requests", "Requests.", ("route", "status"), registry=registry)
    for route, amount in (("/a", 1.0), ('/"b"\\\n', 1 / 3), ("/a", 1e9)):
        ours.labels(route, "200").value += amount
        theirs.labels(route, "200").inc(amount)
    expected = [line for line in generate_latest(registry).splitlines() if b"_created" not in line]
    assert len(expected) == 4
    assert generate_latest(Told(ours)).splitlines() == expected
