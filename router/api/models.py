"""GET /v1/models and /v1/models/{id}, and GET /models, which tells of replicas too: what may be asked for.

The shape is llama-server's, in router mode too.

Called by app.py's route table. Invariant: one entry per name a request may use, whatever the state of its model, but
none for a hidden name or one that is not for the key that asks.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from protos import inference_pb2 as pb
from router.api.routed import call_to
from router.api.wire import json_response
from router.call import Policies
from router.config import KeyConfig
from router.errors import RouterError
from router.fleet.fleet import Fleet
from router.fleet.lifecycle import ModelState, ModelStatus, ReplicaStatus
from router.policy.table import Table
from router.rpc.replica import Replica
from router.supervision.progress import Progress

STATS_SECONDS = 1.0  # that a worker gets to say what it counts
STATES: Mapping[ModelState, str] = {
    ModelState.UNLOADED: "unloaded",
    ModelState.LOADING: "loading",
    ModelState.READY: "loaded",
    ModelState.DRAINING: "unloaded",
    ModelState.CRASHED: "loading",
    ModelState.CONNECTING: "loading",
    ModelState.UNREACHABLE: "loading",
    ModelState.FAILED: "unloaded",
    ModelState.STOPPED: "unloaded",
}


async def list_models(request: Request) -> Response:
    """Every name, in alphabetical order."""
    return _listed({name: _entry(name, status) for name, status in _named(request).items()})


async def list_with_replicas(request: Request) -> Response:
    """As list_models, each with its replicas."""
    named = _named(request)
    models = {status.name: status for status in named.values()}
    told = await asyncio.gather(*(_replicas(_fleet(request), status) for status in models.values()))
    replicas = dict(zip(models, told, strict=True))
    return _listed(
        {name: {**_entry(name, status), "replicas": replicas[status.name]} for name, status in named.items()}
    )


async def get_model(request: Request) -> Response:
    """One name's entry."""
    route = call_to(request, request.path_params["model"]).route
    return json_response(_entry(route.alias, _fleet(request).status(route.model)))


def _listed(entries: Mapping[str, Mapping[str, Any]]) -> Response:
    names = sorted(entries)
    return json_response(
        {"models": [_summary(name) for name in names], "object": "list", "data": [entries[name] for name in names]}
    )


def _named(request: Request) -> dict[str, ModelStatus]:
    """What the request's key may ask for and may see; a reload may have come between the two."""
    table: Table = request.state.table
    key: KeyConfig = request.state.key
    statuses = _statuses(request)
    listed = table.aliases.listed(key.models)
    return {name: statuses[model] for name, model in listed.items() if model in statuses}


def _statuses(request: Request) -> dict[str, ModelStatus]:
    policies: Policies = request.app.state.policies
    return {status.name: status for status in policies.dispatcher.models()}


def _entry(name: str, status: ModelStatus) -> dict[str, Any]:
    return {
        "id": name,
        "aliases": sorted(status.aliases),
        "tags": [],
        "object": "model",
        "created": int(time.time()),
        "owned_by": "llamacpp",
        "meta": _meta(status.description),
        "status": _status(status),
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
    }


def _meta(known: pb.DescribeReply | None) -> dict[str, Any] | None:
    """Null until the worker has described its model."""
    if known is None:
        return None
    return {
        "vocab_type": known.vocab_type,
        "n_vocab": known.vocab_size,
        "n_ctx": known.context_length,
        "n_ctx_train": known.trained_context_length,
        "n_embd": known.embedding_length,
        "n_params": known.num_parameters,
        "size": known.size_bytes,
        "ftype": known.file_type,
    }


def _status(status: ModelStatus) -> dict[str, Any]:
    shown: dict[str, Any] = {"value": STATES[status.state], "args": list(status.arguments)}
    if status.progress is not None and STATES[status.state] == "loading":
        shown["progress"] = progress(status.progress)
    if status.state is ModelState.FAILED:
        shown |= {"failed": True, "reason": status.reason}
    return shown


def progress(told: Progress) -> dict[str, Any]:
    """llama-server's shape; a worker tells one stage at a time."""
    return {"stages": [told.stage], "current": told.stage, "value": told.fraction}


async def _replicas(fleet: Fleet, status: ModelStatus) -> list[dict[str, Any]]:
    """Each with what its worker counts, or null where it does not say in time."""
    found = fleet.open(status.name)
    replies = await asyncio.gather(*map(_stats, found))
    stats = {replica.address: (replica, reply) for replica, reply in zip(found, replies, strict=True)}
    return [_replica(each, *stats.get(each.address or "", (None, None))) for each in status.replicas]


async def _stats(replica: Replica) -> pb.StatsReply | None:
    try:
        async with asyncio.timeout(STATS_SECONDS):
            return await replica.stats(pb.StatsRequest())
    except (RouterError, TimeoutError):
        return None


def _replica(each: ReplicaStatus, replica: Replica | None, stats: pb.StatsReply | None) -> dict[str, Any]:
    return {
        "id": each.name,
        "state": each.state.value,
        "pid": each.pid,
        "address": each.address,
        "running": stats.num_running if stats else None,
        "waiting": stats.num_waiting if stats else None,
        "open": each.num_open,
        "restarts": each.num_restarts,
        "tokens_per_second": round(replica.life.tokens_per_second, 3) if replica and stats else None,
        "resident_bytes": stats.resident_bytes if stats else None,
        "proportional_bytes": (stats.proportional_bytes or None) if stats else None,
        "reason": each.reason,
    }


def _fleet(request: Request) -> Fleet:
    fleet: Fleet = request.app.state.fleet
    return fleet


def _summary(name: str) -> dict[str, Any]:
    """What llama-server shows to clients of another API."""
    return {
        "name": name,
        "model": name,
        "modified_at": "",
        "size": "",
        "digest": "",
        "type": "model",
        "description": "",
        "tags": [""],
        "capabilities": ["completion"],
        "parameters": "",
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "",
            "families": [""],
            "parameter_size": "",
            "quantization_level": "",
        },
    }
