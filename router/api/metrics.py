"""GET /metrics: the fleet in one scrape, or with ?model=NAME llama-server's own text about one model.

Called by app.py's route table. What the gateway counts itself stands in observe/metrics.py; this file adds what workers
tell, as rows of a table. Invariant: names, order, help and number format of the one-model text are llama-server's, to
the byte (tests/parity/metrics.txt).
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from protos import inference_pb2 as pb
from router.api.routed import call_to
from router.call import Policies
from router.config import GatewayConfig
from router.dispatch import Dispatcher
from router.errors import NotSupported, RouterError
from router.fleet.lifecycle import ModelState, ModelStatus

CONTENT_TYPE = "text/plain; version=0.0.4"


class Figure(NamedTuple):
    """One series of a model."""

    name: str
    kind: str
    help: str
    value: Callable[[pb.StatsReply], float]


def _rate(number: float, seconds: float) -> float:
    return number / seconds if seconds > 0 else 0


LLAMA_SERVER: Sequence[Figure] = (
    Figure(
        "prompt_tokens_total",
        "counter",
        "Number of prompt tokens processed, excluding cached tokens",
        lambda s: s.prompt_tokens_total,
    ),
    Figure(
        "prompt_tokens_cached_total",
        "counter",
        "Number of prompt tokens reused from the cache",
        lambda s: s.cached_tokens_total,
    ),
    Figure("prompt_seconds_total", "counter", "Total time spent processing prompts", lambda s: s.prompt_seconds_total),
    Figure(
        "tokens_predicted_total", "counter", "Number of generation tokens processed", lambda s: s.predicted_tokens_total
    ),
    Figure(
        "tokens_predicted_seconds_total",
        "counter",
        "Total time spent generating tokens",
        lambda s: s.predicted_seconds_total,
    ),
    Figure(
        "n_decode_total",
        "counter",
        "Total number of llama_decode() calls, excluding speculative decoding and multimodal decoding",
        lambda s: s.num_steps,
    ),
    Figure(
        "n_tokens_max",
        "counter",
        "Largest observed sequence length (prompt + generation)",
        lambda s: s.longest_sequence,
    ),
    Figure(
        "spec_decode_num_draft_tokens_total",
        "counter",
        "Speculative: Total draft tokens generated",
        lambda s: s.drafted_tokens_total,
    ),
    Figure(
        "spec_decode_num_accepted_tokens_total",
        "counter",
        "Speculative: Total draft tokens accepted by the target model",
        lambda s: s.accepted_tokens_total,
    ),
    Figure(
        "spec_decode_num_drafts_total",
        "counter",
        "Speculative: Total speculative decoding verification steps",
        lambda s: s.draft_rounds_total,
    ),
    Figure(
        "prompt_tokens_seconds",
        "gauge",
        "Average prompt throughput in tokens/s",
        lambda s: _rate(s.prompt_tokens_total, s.prompt_seconds_total),
    ),
    Figure(
        "predicted_tokens_seconds",
        "gauge",
        "Average generation throughput in tokens/s",
        lambda s: _rate(s.predicted_tokens_total, s.predicted_seconds_total),
    ),
    Figure("requests_processing", "gauge", "Number of requests processing", lambda s: s.num_running),
    Figure("requests_deferred", "gauge", "Number of requests deferred", lambda s: s.num_waiting),
    Figure(
        "n_busy_slots_per_decode",
        "gauge",
        "Average number of busy slots per llama_decode() call",
        lambda s: _rate(s.advanced_sequences_total, s.num_steps),
    ),
)
WORKERS: Sequence[Figure] = (
    Figure("vllm:num_requests_running", "gauge", "Generations being computed.", lambda s: s.num_running),
    Figure(
        "vllm:kv_cache_usage_perc",
        "gauge",
        "Share of the cache that is in use, 0 to 1.",
        lambda s: _rate(s.num_blocks - s.num_free_blocks - s.num_cached_blocks, s.num_blocks),
    ),
    Figure("corral_worker_resident_bytes", "gauge", "Memory of the worker processes.", lambda s: s.resident_bytes),
    Figure(
        "corral_worker_proportional_bytes",
        "gauge",
        "Memory of the worker processes, where pages that n of them share count 1/n; 0: not known yet.",
        lambda s: s.proportional_bytes,
    ),
)


async def metrics(request: Request) -> Response:
    """llama-server's metrics: with ?model= its exact text, else every ready model's with a label, and the gateway's."""
    config: GatewayConfig = request.app.state.config
    if not config.metrics:
        raise NotSupported("This server does not support metrics endpoint. Start it with `--metrics`")
    policies: Policies = request.app.state.policies
    name = request.query_params.get("model")
    if name:
        stats = await policies.dispatcher.stats(call_to(request, name).route.model)
        return _answer(exposition("llamacpp:", LLAMA_SERVER, [("", stats)]))
    rows = await ready_stats(policies.dispatcher)
    labelled = [(f'{{model="{_escaped(model)}"}}', stats) for model, stats in rows]
    vllm = [(f'{{model_name="{_escaped(model)}"}}', stats) for model, stats in rows]
    parts = (
        exposition("llamacpp:", LLAMA_SERVER, labelled),
        exposition("", WORKERS, vllm),
        "".join(_lines(*family) for family in _fleet(policies.dispatcher)),
        policies.metrics.text(),
    )
    return _answer("".join(parts))


async def ready_stats(dispatcher: Dispatcher) -> list[tuple[str, pb.StatsReply]]:
    """Stats of the models that can tell; one that dies meanwhile is left out."""
    names = [status.name for status in dispatcher.models() if status.state is ModelState.READY]
    replies = await asyncio.gather(*map(dispatcher.stats, names), return_exceptions=True)
    rows = []
    for name, reply in zip(names, replies, strict=True):
        if isinstance(reply, BaseException):
            if not isinstance(reply, RouterError):
                raise reply
        else:
            rows.append((name, reply))
    return rows


def exposition(prefix: str, figures: Sequence[Figure], rows: Sequence[tuple[str, pb.StatsReply]]) -> str:
    """The text of a table's figures; a row is its labels in braces and where its values come from."""
    return "".join(
        _lines(prefix + figure.name, figure.kind, figure.help, [(label, figure.value(stats)) for label, stats in rows])
        for figure in figures
    )


def _fleet(dispatcher: Dispatcher) -> Iterable[tuple[str, str, str, list[tuple[str, float]]]]:
    """What the gateway knows of its models now."""
    statuses = dispatcher.models()

    def of_each(label: str, value: Callable[[ModelStatus], float]) -> list[tuple[str, float]]:
        return [(f'{{{label}="{_escaped(status.name)}"}}', value(status)) for status in statuses]

    waiting = of_each("model_name", lambda status: dispatcher.num_waiting(status.name))
    ready = of_each("model", lambda status: status.state is ModelState.READY)
    crashes = of_each("model", lambda status: status.num_restarts)
    yield "vllm:num_requests_waiting", "gauge", "Generations in the model's line.", waiting
    yield "corral_model_ready", "gauge", "Whether the model can answer.", ready
    states = [
        (f'{{model="{_escaped(status.name)}",state="{state}"}}', float(number))
        for status in statuses
        for state, number in sorted(Counter(replica.state.value for replica in status.replicas).items())
    ]
    yield "corral_replicas", "gauge", "Workers of the model by what they do.", states
    yield "corral_worker_crashes_total", "counter", "Exits of a worker that nobody asked for.", crashes


def _lines(name: str, kind: str, text: str, samples: Sequence[tuple[str, float]]) -> str:
    head = f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    return head + "".join(f"{name}{label} {_shown(value)}\n" for label, value in samples)


def _shown(value: float) -> str:
    """A number as a C++ stream prints it: six digits, but whole ones in full."""
    return f"{value:g}" if isinstance(value, float) else str(int(value))


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _answer(text: str) -> Response:
    return Response(text, headers={"content-type": CONTENT_TYPE})
