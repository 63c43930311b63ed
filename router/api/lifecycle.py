"""POST /models/load and /models/unload, DELETE /models, and GET /models/sse, which tells what becomes of the models.

llama-server's API in router mode. Called by app.py's route table. Loading and unloading begin at once and are answered
before they end; no model is deleted, because each stands in the configuration. Invariant: a stream of events says
nothing of a model that its key may not use, and ends when the gateway drains.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from router.api.fields import json_body, read
from router.api.listening import listening
from router.api.modelentry import STATES, facts, progress
from router.api.routed import MODEL, call_to
from router.api.streaming import SendFrame
from router.api.wire import json_response
from router.errors import InvalidRequest, ModelNotFound, NotRemovable
from router.fleet.fleet import Fleet
from router.fleet.lifecycle import ModelState, ModelStatus
from router.policy.table import Table

GOING = (ModelState.UNLOADED, ModelState.DRAINING, ModelState.FAILED)
SUCCESS = {"success": True}
Shown = dict[str, dict[str, Any]]  # by name: what a client was told of a model last


async def load(request: Request) -> Response:
    """Has a model loaded, as soon as there is room for it; one that failed is tried again."""
    fleet, name = await _meant(request)
    if fleet.status(name).state not in GOING:
        raise InvalidRequest("model is already running")
    fleet.load(name)
    return json_response(SUCCESS)


async def unload(request: Request) -> Response:
    """Has a model unloaded: at once if it is still loading, else when its open requests have ended."""
    try:
        fleet, name = await _meant(request)
    except ModelNotFound:
        raise InvalidRequest("model is not found") from None
    if fleet.status(name).state in GOING:
        raise InvalidRequest("model is not running")
    fleet.unload(name)
    return json_response(SUCCESS)


async def remove(request: Request) -> Response:
    """Says why the model stays: only what a configuration does not name could go without breaking the next reload."""
    name = request.query_params.get("model")
    if not name:
        raise InvalidRequest("model must be a non-empty string")
    try:
        model = call_to(request, name).route.model
    except ModelNotFound:
        raise NotRemovable(name, "is not found") from None
    raise NotRemovable(model, "is not removable (not from cache): it stands in the configuration")


async def events(request: Request) -> Response:
    """Every model's state, then every change of one."""
    return listening(request, partial(_tell, request))


async def _meant(request: Request) -> tuple[Fleet, str]:
    body = await json_body(request)
    fleet: Fleet = request.app.state.fleet
    name = call_to(request, read(MODEL, body)["model"]).route.model
    if fleet.status(name).path is None:
        raise InvalidRequest(f"model '{name}' runs on other hosts only: this server neither loads nor unloads it")
    return fleet, name


async def _tell(request: Request, send: SendFrame) -> None:
    fleet: Fleet = request.app.state.fleet
    config, shown = request.app.state.config, Shown()
    await send(b"")  # the answer begins, even if there is nothing to tell for long
    while not fleet.draining:
        seen = fleet.num_changes
        if request.app.state.config is not config:
            config = request.app.state.config
            await send(_frame("*", "models_reload"))
        statuses = _told(request, fleet)
        now = {name: _state(status) for name, status in statuses.items()}
        for name in shown.keys() - now.keys():
            await send(_frame(name, "model_remove"))
        for name, state in now.items():
            if shown.get(name) != state:
                await send(_frame(name, "model_status", _with_facts(name, state, statuses[name])))
        shown = now
        await fleet.change(seen)


def _told(request: Request, fleet: Fleet) -> dict[str, ModelStatus]:
    """What the request's key may know now, by the names in force now."""
    table: Table = request.app.state.table
    statuses = {status.name: status for status in fleet.models()}
    listed = table.aliases.listed(request.state.guard.key_by_now(request).models)
    return {name: statuses[model] for name, model in listed.items() if model in statuses}


def _state(status: ModelStatus) -> dict[str, Any]:
    told: dict[str, Any] = {"status": STATES[status.state]}
    if status.progress is not None and told["status"] == "loading":
        told["progress"] = progress(status.progress)
    if status.reason:
        told["reason"] = status.reason
    if status.state is ModelState.FAILED and status.exit_code is not None:
        told["exit_code"] = status.exit_code
    return told


def _with_facts(name: str, state: dict[str, Any], status: ModelStatus) -> dict[str, Any]:
    """With what a client would ask for next of a model that was loaded."""
    return {**state, "info": facts(name, status)} if status.state is ModelState.READY else state


def _frame(name: str, event: str, data: Mapping[str, Any] | None = None) -> bytes:
    told = {"model": name, "event": event} | ({} if data is None else {"data": data})
    return b"data: " + orjson.dumps(told) + b"\n\n"
