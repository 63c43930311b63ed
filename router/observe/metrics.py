"""What the gateway counts of its requests, for Prometheus: names of vLLM where vLLM has them, our own for the rest.

Made by app.py. `watch` follows one generation and is called by call.py for each of its replies; `request` is called by
access.py at the end of each HTTP request. What workers count is added when somebody asks (api/metrics.py). Invariant:
labels come from the configuration and the route table, never from a request, so that no client can make new series;
whatever happens once per token costs no look-up of labels.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily

from protos import inference_pb2 as pb
from router.observe.counter import Count, Counter
from router.observe.detours import Detours
from router.observe.histogram import Histogram, Series
from router.observe.reloads import Reloads

_FAST = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
_SLOW = (0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0)
_PER_TOKEN = (*_FAST, *_SLOW[:9])
_PER_REQUEST = (*_FAST[::2], *_SLOW)
_FINISHES = {pb.END_OF_SEQUENCE: "stop", pb.STOP_STRING: "stop", pb.LENGTH: "length"}
_ABORTED, _FAILED = "abort", "error"  # how answers end that had begun and are not complete
_ENDS = (*dict.fromkeys(_FINISHES.values()), _ABORTED, _FAILED)

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class _ModelSeries:
    """The series of one model, looked up once."""

    first_token: Series
    between_tokens: Series
    whole: Series
    queued: Series
    prompt_tokens: Count
    tokens: Count
    ends: Mapping[str, Count]  # by the reason


@dataclass(slots=True)
class Watch:
    """One generation as the gateway sees it. Times are the clock's, in seconds; 0: not yet."""

    began: float
    _clock: Clock
    series: _ModelSeries | None = None
    waited: float = 0.0  # seconds in the model's line
    first_token: float = 0.0
    last_token: float = 0.0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_tokens: int = 0
    finish: str = ""  # "stop" or "length", once it has ended well
    has_begun: bool = False  # something of the answer was handed out
    has_failed: bool = False  # what ended it was an error, not its client

    def replies(self, replies: Iterable[pb.GenerateReply]) -> None:
        """Notes replies of the worker that came together, in the order in which they come."""
        num_before = self.num_tokens
        for reply in replies:
            if reply.HasField("delta"):
                self.num_tokens += len(reply.delta.tokens)
            elif reply.HasField("started"):
                self.has_begun = True
                self.num_prompt_tokens = reply.started.num_prompt_tokens
                self.num_cached_tokens = reply.started.num_cached_tokens
            elif reply.HasField("finished"):
                self.finish = _FINISHES.get(reply.finished.reason, "stop")
                self.num_tokens = reply.finished.num_completion_tokens
        if self.num_tokens > num_before:
            self._new_tokens(self.num_tokens - num_before)

    def _new_tokens(self, num_new: int) -> None:
        """Tokens that come together count as that many of their average distance."""
        assert self.series is not None
        now = self._clock()
        if not self.first_token:
            self.first_token = self.last_token = now
            self.series.first_token.observe(now - self.began)
            num_new -= 1
        if num_new:
            self.series.between_tokens.observe((now - self.last_token) / num_new, num_new)
        self.last_token = now


class Metrics:
    """The counts of this gateway."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self._clock = clock
        self._models: dict[str, _ModelSeries] = {}
        self._by_request: dict[tuple[str, int, str], tuple[Count, Count]] = {}
        self._kept: list[Histogram | Counter] = []  # in the order in which they are told
        self.reloads = Reloads()
        self.detours = Detours()
        self.num_in_flight = 0  # HTTP requests; access.py counts them
        self._first_token = self._histogram("vllm:time_to_first_token_seconds", "Time to first token", _PER_REQUEST)
        self._between_tokens = self._histogram("vllm:inter_token_latency_seconds", "Time between tokens", _PER_TOKEN)
        self._whole = self._histogram("vllm:e2e_request_latency_seconds", "Time of whole generations", _PER_REQUEST)
        self._queued = self._histogram("vllm:request_queue_time_seconds", "Time in the model's line", _PER_REQUEST)
        self._ends = self._counter("vllm:request_success", "Generations that ended", "model_name", "finished_reason")
        self._prompt_tokens = self._counter("vllm:prompt_tokens", "Tokens of prompts", "model_name")
        self._tokens = self._counter("vllm:generation_tokens", "Tokens of answers", "model_name")
        self._requests = self._counter("corral_requests", "HTTP requests that ended", "route", "status", "model")
        self._seconds = self._counter("corral_request_seconds", "Time in HTTP requests", "route")

    def watch(self) -> Watch:
        """Begins to follow a generation."""
        return Watch(self._clock(), self._clock)

    def goes_to(self, watch: Watch, model: str) -> None:
        """From here on the generation belongs to this model."""
        watch.series = self._series(model)

    def ended(self, watch: Watch) -> None:
        """Counts a generation that nobody will add to; one that failed or was cut counts for its tokens only."""
        series = watch.series
        if series is None:
            return
        series.prompt_tokens.value += watch.num_prompt_tokens
        series.tokens.value += watch.num_tokens
        series.queued.observe(watch.waited)
        if watch.finish:
            series.whole.observe(self._clock() - watch.began)
            series.ends[watch.finish].value += 1
        elif watch.has_begun:
            series.ends[_FAILED if watch.has_failed else _ABORTED].value += 1

    def request(self, route: str, status: int, model: str, seconds: float) -> None:
        """Counts an HTTP request that has ended; `model` is empty where none was asked for."""
        requests, total = self._by_request.get((route, status, model)) or self._request_series(route, status, model)
        requests.value += 1
        total.value += seconds

    def text(self, models: Iterable[str] = ()) -> str:
        """Everything counted here, in Prometheus' text format; of these models even what was never counted yet."""
        for model in models:
            self._series(model)
        return generate_latest(self).decode()

    def collect(self) -> Iterable[Metric]:
        """Everything counted here, as it stands."""
        yield from (each.family() for each in self._kept)
        yield GaugeMetricFamily("corral_requests_in_flight", "HTTP requests being answered.", self.num_in_flight)
        yield from self.detours.collect()
        yield from self.reloads.collect()

    def _series(self, model: str) -> _ModelSeries:
        series = self._models.get(model)
        if series is None:
            series = _ModelSeries(
                self._first_token.labels(model),
                self._between_tokens.labels(model),
                self._whole.labels(model),
                self._queued.labels(model),
                self._prompt_tokens.labels(model),
                self._tokens.labels(model),
                {reason: self._ends.labels(model, reason) for reason in _ENDS},
            )
            self._models[model] = series
            self.detours.know(model)
        return series

    def _request_series(self, route: str, status: int, model: str) -> tuple[Count, Count]:
        found = self._requests.labels(route, str(status), model), self._seconds.labels(route)
        self._by_request[route, status, model] = found
        return found

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
        made = Histogram(name, f"{text} in seconds.", "model_name", bounds)
        self._kept.append(made)
        return made

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        made = Counter(name, f"{text}.", *labels)
        self._kept.append(made)
        return made
