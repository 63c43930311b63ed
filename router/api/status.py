"""Health and properties: what operators and probes ask for, in llama-server's shape.

Called by app.py's route table. Invariant: /live depends on no worker, nothing but /health/deep generates, and nothing
loads a model or keeps it loaded.
"""

import asyncio
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from protos import inference_pb2 as pb
from router.api.routed import call_to, overlaid
from router.api.sampling import generation_settings, parameters
from router.api.streaming import gather
from router.api.wire import FINGERPRINT, collect, json_response
from router.call import Call, Policies
from router.config import GatewayConfig, KeyConfig, LimitsConfig
from router.dispatch import Attempt, Dispatcher, Turn
from router.errors import InvalidRequest, ModelFailed, ModelLoading, RouterError, Unavailable
from router.fleet.lifecycle import ModelState, ModelStatus
from router.policy.table import Table

OK = {"status": "ok"}
AWAY = (ModelState.UNLOADED, ModelState.DRAINING)
DEEP_SECONDS = 10.0  # that /health/deep waits for a token
HEALTH_KEY = KeyConfig("health", b"")
PROBE = {"max_tokens": 1, "temperature": 0, "cache_prompt": False}
PROBE_PROMPT = pb.Prompt(parts=pb.PromptParts(parts=[pb.PromptPart(text="a")]))
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


async def deep_health(request: Request) -> Response:
    """One token through the real line of a model, or of all but those that wait unloaded until a request wants them.

    Raises Unavailable if one gives none in time, or if that one model is not loaded.
    """
    name = request.query_params.get("model")
    dispatcher, table = _dispatcher(request), _table(request)
    loaded = [status.name for status in dispatcher.models() if status.state not in AWAY]
    models = [call_to(request, name).route.model] if name else loaded
    seconds = await gather([_first_token(dispatcher, model, table.limits) for model in models])
    checked = [{"name": model, "ms": round(each * 1000, 1)} for model, each in zip(models, seconds, strict=True)]
    return json_response({**OK, "models": checked})


async def _first_token(dispatcher: Dispatcher, model: str, limits: LimitsConfig) -> float:
    """Seconds until the model has answered with a token."""
    clock = asyncio.get_running_loop().time
    began = clock()
    message = parameters(PROBE, None, {}).request(f"health-{model}", PROBE_PROMPT, 0, return_prompt=False)
    turn = Turn(HEALTH_KEY, limits, cost=2, is_probe=True)
    try:
        async with asyncio.timeout(DEEP_SECONDS):
            await collect(partial(dispatcher.generate, Attempt(model), message, turn))
    except TimeoutError:
        waiting = dispatcher.num_waiting(model)
        raise Unavailable(f"model '{model}' gave no token in {DEEP_SECONDS:g} s ({waiting} requests wait)") from None
    except RouterError as error:
        raise Unavailable(f"model '{model}': {error.message}") from error
    return clock() - began


async def props(request: Request) -> Response:
    """One model's properties; without a name and with several models, the gateway's."""
    dispatcher, name = _dispatcher(request), request.query_params.get("model")
    if not name and len(dispatcher.models()) > 1:
        return json_response(_gateway_props(_config(request)))
    call = call_to(request, name)
    status = _status(dispatcher, call.route.model)
    if status.description is None:
        raise _undescribed(status)
    return json_response(_model_props(call, status.description, _config(request)))


def _undescribed(status: ModelStatus) -> RouterError:
    """Why nothing is known of a model; that somebody asks does not load it."""
    if status.state is ModelState.FAILED:
        return ModelFailed(status.name, status.reason)
    if status.state in AWAY:
        return InvalidRequest(f"model '{status.name}' is not loaded (POST /models/load loads it)")
    return ModelLoading()


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


def _model_props(call: Call, known: pb.DescribeReply, config: GatewayConfig) -> dict[str, Any]:
    """The settings shown are those of a request that says nothing."""
    settings = generation_settings(parameters(overlaid({}, call.route), None, call.sampling), brief=True)
    return {
        "default_generation_settings": {"params": settings, "n_ctx": known.context_length},
        "total_slots": known.num_parallel,
        "model_alias": call.route.alias,
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


def _dispatcher(request: Request) -> Dispatcher:
    policies: Policies = request.app.state.policies
    return policies.dispatcher


def _table(request: Request) -> Table:
    table: Table = request.state.table
    return table


def _status(dispatcher: Dispatcher, model: str) -> ModelStatus:
    return next(status for status in dispatcher.models() if status.name == model)


def _config(request: Request) -> GatewayConfig:
    config: GatewayConfig = request.app.state.config
    return config
