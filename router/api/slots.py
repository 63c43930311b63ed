"""GET /slots and POST /slots/{id}: a model's places for running requests, in llama-server's shape.

Called by app.py's route table. All places share one cache of prefixes: a place stands for what its latest request has
in it. Whole blocks of positions are saved, restored and found again. Invariant: file names are the worker's to judge.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from protos import inference_pb2 as pb
from router.api.fields import Field, Fields, json_body, read, string
from router.api.routed import call_to
from router.api.sampling import TABLE, generation_settings, parameters
from router.api.streaming import answer
from router.api.wire import json_response
from router.config import GatewayConfig
from router.errors import InvalidRequest, NotSupported, Unavailable

# Of each action: the worker's name for it, and what the answer calls tokens, bytes and time.
_ACTIONS: Mapping[str, tuple[Any, tuple[str, ...]]] = {
    "save": (pb.SAVE, ("n_saved", "n_written", "save_ms")),
    "restore": (pb.RESTORE, ("n_restored", "n_read", "restore_ms")),
    "erase": (pb.ERASE, ()),
}
_BODY = Fields(Field("filename", string, ""), Field("model", string))
_LARGEST_ID = 1 << 20
_SHOWN = {name for field in TABLE for name in field.names}


async def slots(request: Request) -> Response:
    """Every place of every replica, busy or idle; with ?fail_on_no_slot=1 an error if all are busy."""
    config: GatewayConfig = request.app.state.config
    if not config.slots:
        raise NotSupported("This server does not support slots endpoint. Start it with `--slots`")
    call = call_to(request, request.query_params.get("model"))
    dispatcher, model = call.policies.dispatcher, call.route.model
    places = await dispatcher.places(model)
    if request.query_params.get("fail_on_no_slot") and all(place.is_running for place in places):
        raise Unavailable("no slot available")
    known = next(status.description for status in dispatcher.models() if status.name == model)
    return json_response([_slot(place, known or pb.DescribeReply()) for place in places])


def _slot(place: pb.Place, model: pb.DescribeReply) -> dict[str, Any]:
    slot = {
        "id": place.number,
        "n_ctx": model.context_length,
        "speculative": model.speculative,
        "is_processing": place.is_running,
    }
    if place.task < 0:
        return slot
    return slot | {
        "id_task": place.task,
        "n_prompt_tokens": place.num_prompt_tokens,
        "n_prompt_tokens_processed": place.num_prompt_computed,
        "n_prompt_tokens_cache": place.num_cached,
        "params": _parameters(place),
        "next_token": [
            {
                "has_next_token": place.is_running,
                "has_new_line": place.has_new_line,
                "n_remain": place.num_remaining if place.max_tokens >= 0 else -1,
                "n_decoded": place.num_predicted,
            }
        ],
    }


def _parameters(place: pb.Place) -> dict[str, Any]:
    """The settings in force, by the names that requests have for them."""
    fields = [f for f in pb.Sampling.DESCRIPTOR.fields if not f.has_presence or place.sampling.HasField(f.name)]
    told = {field.name: getattr(place.sampling, field.name) for field in fields}
    given = {name: _read(value) for name, value in told.items() if name in _SHOWN and isinstance(value, int | float)}
    more = {"samplers": list(place.sampling.samplers.names), "n_predict": max(place.max_tokens, -1)}
    return generation_settings(parameters({**given, **more}, None, {}), brief=True)


def _read(value: float) -> float:
    """What a client may have written for a number that was rounded to 32 bits."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


async def change_slot(request: Request) -> Response:
    """?action=save and restore with a filename in the body; ?action=erase."""
    number, action = request.path_params["id"], request.query_params.get("action", "")
    if not number.isdigit() or int(number) >= _LARGEST_ID:
        raise InvalidRequest("Invalid slot ID")
    if action not in _ACTIONS:
        raise InvalidRequest("Invalid action")
    body = read(_BODY, await json_body(request, may_be_empty=True))
    call = call_to(request, body["model"] or request.query_params.get("model"))
    act, names = _ACTIONS[action]
    message = pb.ChangePlaceRequest(number=int(number), action=act, filename=body["filename"])

    async def work() -> Response:
        began = time.perf_counter()
        reply = await call.change_place(message)
        return json_response(_changed(message, reply, names, 1e3 * (time.perf_counter() - began)))

    return await answer(request, work())


def _changed(
    message: pb.ChangePlaceRequest, reply: pb.ChangePlaceReply, names: Sequence[str], milliseconds: float
) -> dict[str, Any]:
    if not names:
        return {"id_slot": message.number, "n_erased": reply.num_tokens}
    tokens, size, duration = names
    return {
        "id_slot": message.number,
        "filename": message.filename,
        tokens: reply.num_tokens,
        size: reply.num_bytes,
        "timings": {duration: milliseconds},
    }
