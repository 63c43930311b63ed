"""GET /metrics: the fleet in one scrape, or with ?model=NAME llama-server's own text about one model.

Called by app.py's route table. What the gateway counts itself stands in observe/metrics.py and what it knows of its
models in modelmetrics.py; this file adds what workers tell, as rows of a table. All of it is listed in
deploy/metrics.md. Invariant: names, order, help and number format of the one-model text are llama-server's, to the byte
(tests/parity/metrics.txt); what a model has counted is told whatever its state, how it stands while it can answer.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from prometheus_client import generate_latest
from starlette.requests import Request
from starlette.responses import Response

from protos import inference_pb2 as pb
from router.api.modelmetrics import ModelFigures
from router.api.routed import call_to
from router.call import Policies
from router.config import GatewayConfig
from router.dispatch import Dispatcher
from router.errors import NotSupported, RouterError
from router.fleet.fleet import Fleet
from router.fleet.lifecycle import ModelState
from router.fleet.pace import Throughput
from router.fleet.tally import Tally

CONTENT_TYPE = "text/plain; version=0.0.4"


class Reading(NamedTuple):
    """What is known of a model's computing now."""

    stats: pb.StatsReply
    throughput: Throughput = Throughput()
    is_live: bool = True  # its workers have told, so that more than the counts of `stats` is known


class Figure(NamedTuple):
    """One series of a model."""

    name: str
    kind: str
    help: str
    value: Callable[[Reading], float]


def _rate(number: float, seconds: float) -> float:
    return number / seconds if seconds > 0 else 0


LLAMA_SERVER: Sequence[Figure] = (
    Figure(
        "prompt_tokens_total",
        "counter",
        "Number of prompt tokens processed, excluding cached tokens",
        lambda r: r.stats.prompt_tokens_total,
    ),
    Figure(
        "prompt_tokens_cached_total",
        "counter",
        "Number of prompt tokens reused from the cache",
        lambda r: r.stats.cached_tokens_total,
    ),
    Figure(
        "prompt_seconds_total", "counter", "Total time spent processing prompts", lambda r: r.stats.prompt_seconds_total
    ),
    Figure(
        "tokens_predicted_total",
        "counter",
        "Number of generation tokens processed",
        lambda r: r.stats.predicted_tokens_total,
    ),
    Figure(
        "tokens_predicted_seconds_total",
        "counter",
        "Total time spent generating tokens",
        lambda r: r.stats.predicted_seconds_total,
    ),
    Figure(
        "n_decode_total",
        "counter",
        "Total number of llama_decode() calls, excluding speculative decoding and multimodal decoding",
        lambda r: r.stats.num_steps,
    ),
    Figure(
        "n_tokens_max",
        "counter",
        "Largest observed sequence length (prompt + generation)",
        lambda r: r.stats.longest_sequence,
    ),
    Figure(
        "spec_decode_num_draft_tokens_total",
        "counter",
        "Speculative: Total draft tokens generated",
        lambda r: r.stats.drafted_tokens_total,
    ),
    Figure(
        "spec_decode_num_accepted_tokens_total",
        "counter",
        "Speculative: Total draft tokens accepted by the target model",
        lambda r: r.stats.accepted_tokens_total,
    ),
    Figure(
        "spec_decode_num_drafts_total",
        "counter",
        "Speculative: Total speculative decoding verification steps",
        lambda r: r.stats.draft_rounds_total,
    ),
    Figure(
        "prompt_tokens_seconds",
        "gauge",
        "Average prompt throughput in tokens/s",
        lambda r: r.throughput.prompt,
    ),
    Figure(
        "predicted_tokens_seconds",
        "gauge",
        "Average generation throughput in tokens/s",
        lambda r: r.throughput.answer,
    ),
    Figure("requests_processing", "gauge", "Number of requests processing", lambda r: r.stats.num_running),
    Figure("requests_deferred", "gauge", "Number of requests deferred", lambda r: r.stats.num_waiting),
    Figure(
        "n_busy_slots_per_decode",
        "gauge",
        "Average number of busy slots per llama_decode() call",
        lambda r: _rate(r.stats.advanced_sequences_total, r.stats.num_steps),
    ),
)
VLLM: Sequence[Figure] = (
    Figure("num_requests_running", "gauge", "Generations being computed.", lambda r: r.stats.num_running),
    Figure(
        "kv_cache_usage_perc",
        "gauge",
        "Share of the cache that is in use, 0 to 1.",
        lambda r: _rate(r.stats.num_blocks - r.stats.num_free_blocks - r.stats.num_cached_blocks, r.stats.num_blocks),
    ),
)
WORKERS: Sequence[Figure] = (
    Figure("resident_bytes", "gauge", "Memory of the worker processes.", lambda r: r.stats.resident_bytes),
    Figure(
        "prefix_blocks",
        "gauge",
        "Blocks of the cache that hold reusable prefixes, in use or not.",
        lambda r: r.stats.num_prefix_blocks,
    ),
    Figure(
        "prefixes",
        "gauge",
        "Reusable prefixes that are no beginning of another.",
        lambda r: r.stats.num_prefixes,
    ),
    Figure(
        "proportional_bytes",
        "gauge",
        "Memory of the worker processes, where pages that n of them share count 1/n; 0: not known yet.",
        lambda r: r.stats.proportional_bytes,
    ),
)


async def metrics(request: Request) -> Response:
    """llama-server's metrics: with ?model= its exact text, else every ready model's with a label, and the gateway's."""
    config: GatewayConfig = request.app.state.config
    if not config.metrics:
        raise NotSupported("This server does not support metrics endpoint. Start it with `--metrics`")
    policies: Policies = request.app.state.policies
    fleet: Fleet = request.app.state.fleet
    name = request.query_params.get("model")
    if name:
        model = call_to(request, name).route.model
        stats = await policies.dispatcher.stats(model)
        return _answer(exposition("llamacpp:", LLAMA_SERVER, [("", _reading(fleet.tally(model), stats))]))
    rows = await readings(fleet, policies.dispatcher)
    labelled = [(f'{{model="{_escaped(model)}"}}', reading) for model, reading in rows.items()]
    vllm = [(f'{{model_name="{_escaped(model)}"}}', reading) for model, reading in rows.items()]
    parts = (
        exposition("llamacpp:", LLAMA_SERVER, labelled),
        exposition("vllm:", VLLM, vllm),
        exposition("corral_worker_", WORKERS, labelled),
        generate_latest(ModelFigures(fleet, policies.dispatcher)).decode(),
        policies.metrics.text(rows),
    )
    return _answer("".join(parts))


async def readings(fleet: Fleet, dispatcher: Dispatcher) -> dict[str, Reading]:
    """Of every configured model, in the order of configuration. Waits for none and wakes none."""
    names = [status.name for status in dispatcher.models() if status.state is ModelState.READY]
    replies = await asyncio.gather(*map(dispatcher.stats, names), return_exceptions=True)
    told: dict[str, pb.StatsReply] = {}
    for name, reply in zip(names, replies, strict=True):
        if isinstance(reply, pb.StatsReply):
            told[name] = reply
        elif not isinstance(reply, RouterError):  # those die meanwhile
            raise reply
    return {name: _reading(tally, told.get(name)) for name, tally in fleet.tallies().items()}


def _reading(tally: Tally, told: pb.StatsReply | None) -> Reading:
    stats = told or pb.StatsReply()
    tally.put_into(stats)
    return Reading(stats, tally.throughput, told is not None)


def exposition(prefix: str, figures: Sequence[Figure], rows: Sequence[tuple[str, Reading]]) -> str:
    """The text of a table's figures; a row is its labels in braces and where its values come from."""
    return "".join(
        _lines(
            prefix + figure.name,
            figure.kind,
            figure.help,
            [(label, figure.value(reading)) for label, reading in rows if reading.is_live or figure.kind == "counter"],
        )
        for figure in figures
    )


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
