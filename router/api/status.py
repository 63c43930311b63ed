"""Health, properties and metrics: what operators and probes ask for, in llama-server's shape.

Called by app.py's route table. Invariant: nothing here generates, and /live depends on no worker.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from protos import inference_pb2 as pb
from router.api.routed import call_to
from router.api.sampling import generation_settings, parameters
from router.api.wire import FINGERPRINT, json_response
from router.call import Policies
from router.config import GatewayConfig
from router.dispatch import Dispatcher
from router.errors import ModelLoading, NotSupported, RouterError
from router.lifecycle import ModelState, ModelStatus

OK = {"status": "ok"}
MEDIA_MARKER = "<__media__>"


async def health(request: Request) -> Response:
    """llama-server's /health: ok, or its body for a model that is being loaded."""
    _dispatcher(request).check_health()
    return json_response(OK)


async def live(request: Request) -> Response:
    """The gateway itself runs."""
    return json_response(OK)


async def ready(request: Request) -> Response:
    """Requests are wanted here: healthy, and not about to stop."""
    _dispatcher(request).check_ready()
    return json_response(OK)


async def props(request: Request) -> Response:
    """One model's properties; without a name and with several models, the gateway's."""
    dispatcher, name = _dispatcher(request), request.query_params.get("model")
    if not name and len(dispatcher.models()) > 1:
        return json_response(_gateway_props(_config(request)))
    route = call_to(request, name).route
    known = _status(dispatcher, route.model).description
    if known is None:
        raise ModelLoading
    return json_response(_model_props(route.alias, known, _config(request)))


def _gateway_props(config: GatewayConfig) -> dict[str, Any]:
    return {
        "role": "router",
        "max_instances": config.residency.max_models or len(config.models),
        "models_autoload": config.residency.autoload,
        "model_alias": "llama-server",
        "model_path": "none",
        "default_generation_settings": {"params": {}, "n_ctx": 0},
        "ui_settings": {},
        "build_info": FINGERPRINT,
        "cors_proxy_enabled": False,
    }


def _model_props(alias: str, known: pb.DescribeReply, config: GatewayConfig) -> dict[str, Any]:
    settings = generation_settings(parameters({}, None, config.sampling), brief=True)
    return {
        "default_generation_settings": {"params": settings, "n_ctx": known.context_length},
        "total_slots": known.num_parallel,
        "model_alias": alias,
        "model_ftype": known.file_type,
        "model_path": known.model_path,
        "modalities": {"vision": False, "video": False, "audio": False},
        "media_marker": MEDIA_MARKER,
        "endpoint_slots": config.slots,
        "endpoint_props": False,
        "endpoint_metrics": config.metrics,
        "ui": False,
        "ui_settings": {},
        "chat_template": known.chat_template,
        "chat_template_caps": {},
        "bos_token": known.bos_token,
        "eos_token": known.eos_token,
        "build_info": FINGERPRINT,
        "is_sleeping": False,
        "cors_proxy_enabled": False,
    }


# ---- metrics ----------------------------------------------------------------------------------

METRICS: Sequence[tuple[str, str, str, Callable[[pb.StatsReply], float]]] = (
    ("prompt_tokens_total", "counter", "Number of prompt tokens processed.", lambda s: s.prompt_tokens_total),
    ("prompt_tokens_cached_total", "counter", "Number of prompt tokens reused.", lambda s: s.cached_tokens_total),
    ("prompt_seconds_total", "counter", "Prompt process time", lambda s: s.prompt_seconds_total),
    ("tokens_predicted_total", "counter", "Number of generation tokens processed.", lambda s: s.predicted_tokens_total),
    ("tokens_predicted_seconds_total", "counter", "Predict process time", lambda s: s.predicted_seconds_total),
    ("n_decode_total", "counter", "Total number of steps computed", lambda s: s.num_steps),
    (
        "prompt_tokens_seconds",
        "gauge",
        "Average prompt throughput in tokens/s.",
        lambda s: _rate(s.prompt_tokens_total, s.prompt_seconds_total),
    ),
    (
        "predicted_tokens_seconds",
        "gauge",
        "Average generation throughput in tokens/s.",
        lambda s: _rate(s.predicted_tokens_total, s.predicted_seconds_total),
    ),
    ("requests_processing", "gauge", "Number of requests processing.", lambda s: s.num_running),
    ("requests_deferred", "gauge", "Number of requests deferred.", lambda s: s.num_waiting),
)


async def metrics(request: Request) -> Response:
    """llama-server's metrics: with ?model= its exact text, else every ready model's with a label."""
    if not _config(request).metrics:
        raise NotSupported("This server does not support metrics endpoint. Start it with `--metrics`")
    dispatcher, name = _dispatcher(request), request.query_params.get("model")
    if name:
        rows = [("", await dispatcher.stats(call_to(request, name).route.model))]
    else:
        rows = await _labelled(dispatcher)
    return Response(_exposition(rows), media_type="text/plain; version=0.0.4")


async def _labelled(dispatcher: Dispatcher) -> list[tuple[str, pb.StatsReply]]:
    """Stats of the models that can tell; one that dies meanwhile is left out."""
    names = [status.name for status in dispatcher.models() if status.state is ModelState.READY]
    asked = [dispatcher.stats(name) for name in names]
    replies = await asyncio.gather(*asked, return_exceptions=True)
    rows = []
    for name, reply in zip(names, replies, strict=True):
        if isinstance(reply, BaseException):
            if not isinstance(reply, RouterError):
                raise reply
        else:
            rows.append((f'{{model="{_escaped(name)}"}}', reply))
    return rows


def _exposition(rows: Sequence[tuple[str, pb.StatsReply]]) -> str:
    lines = []
    for name, kind, text, value in METRICS:
        lines += [f"# HELP llamacpp:{name} {text}", f"# TYPE llamacpp:{name} {kind}"]
        lines += [f"llamacpp:{name}{label} {value(stats)}" for label, stats in rows]
    return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _rate(number: float, seconds: float) -> float:
    return number / seconds if seconds > 0 else 0.0


def _dispatcher(request: Request) -> Dispatcher:
    policies: Policies = request.app.state.policies
    return policies.dispatcher


def _status(dispatcher: Dispatcher, model: str) -> ModelStatus:
    return next(status for status in dispatcher.models() if status.name == model)


def _config(request: Request) -> GatewayConfig:
    config: GatewayConfig = request.app.state.config
    return config
