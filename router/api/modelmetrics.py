"""What the gateway knows of its models and their workers, for Prometheus.

Made by metrics.py for each scrape; the counts are the models' own (fleet/tally.py), so that a model's series last
as long as it is configured. Invariant: every count is told from 0 on, so that its first rise can be seen.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from router.dispatch import Dispatcher
from router.fleet.eviction import Cause
from router.fleet.fleet import Fleet
from router.fleet.lifecycle import ModelState
from router.fleet.tally import LoadEnd, Tally
from router.observe.histogram import histogram_of

REPLICA_STATES = (
    ModelState.CONNECTING,
    ModelState.LOADING,
    ModelState.READY,
    ModelState.DRAINING,
    ModelState.CRASHED,
    ModelState.UNREACHABLE,
    ModelState.FAILED,
    ModelState.STOPPED,
)
_Counts = Mapping[LoadEnd, int] | Mapping[Cause, int]


class ModelFigures:
    """One scrape."""

    def __init__(self, fleet: Fleet, dispatcher: Dispatcher) -> None:
        self._statuses = fleet.models()
        self._tallies = fleet.tallies()
        self._dispatcher = dispatcher

    def collect(self) -> Iterable[Metric]:
        """How the models stand, then what has become of them."""
        yield from self._standing()
        yield self._crashes()
        yield from self._ejections()
        yield self._counters(
            "corral_model_loads", "Loads of the model by how they ended.", "result", lambda tally: tally.num_loads
        )
        yield histogram_of(
            "corral_model_load_seconds",
            "Seconds from the start of the model's workers until one was ready.",
            "model",
            {name: tally.load_seconds for name, tally in self._tallies.items()},
        )
        yield self._counters(
            "corral_model_unloads",
            "Times that the model was unloaded, and why.",
            "reason",
            lambda tally: tally.num_unloads,
        )

    def _standing(self) -> Iterable[Metric]:
        waiting = GaugeMetricFamily(
            "vllm:num_requests_waiting", "Generations in the model's line.", labels=("model_name",)
        )
        ready = GaugeMetricFamily("corral_model_ready", "Whether the model can answer.", labels=("model",))
        replicas = GaugeMetricFamily(
            "corral_replicas", "Workers of the model by what they do.", labels=("model", "state")
        )
        for status in self._statuses:
            waiting.add_metric((status.name,), self._dispatcher.num_waiting(status.name))
            ready.add_metric((status.name,), status.state is ModelState.READY)
            numbers = Counter(replica.state for replica in status.replicas)
            for state in REPLICA_STATES:
                replicas.add_metric((status.name, state), numbers[state])
        yield from (waiting, ready, replicas)

    def _crashes(self) -> Metric:
        family = CounterMetricFamily(
            "corral_worker_crashes", "Exits of a worker that nobody asked for.", labels=("model",)
        )
        for model, tally in self._tallies.items():
            family.add_metric((model,), tally.num_crashes)
        return family

    def _ejections(self) -> Iterable[Metric]:
        begun = CounterMetricFamily(
            "corral_replica_ejections", "Times that a replica failed so often that it was left out.", labels=("model",)
        )
        ended = CounterMetricFamily(
            "corral_replica_returns", "Times that a replica was taken back after it was left out.", labels=("model",)
        )
        for model in self._tallies:
            ejections = self._dispatcher.ejections(model)
            begun.add_metric((model,), ejections.num_begun)
            ended.add_metric((model,), ejections.num_ended)
        yield from (begun, ended)

    def _counters(self, name: str, text: str, label: str, values: Callable[[Tally], _Counts]) -> Metric:
        family = CounterMetricFamily(name, text, labels=("model", label))
        for model, tally in self._tallies.items():
            for key, value in values(tally).items():
                family.add_metric((model, key), value)
        return family
