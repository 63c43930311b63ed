"""GET /v1/models and /v1/models/{id}, and GET /models, which tells of replicas too: what may be asked for.

The shape is llama-server's, in router mode too (modelentry.py).

Called by app.py's route table. Invariant: one entry per name a request may use, whatever the state of its model, but
none for a hidden name or one that is not for the key that asks.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from protos import inference_pb2 as pb
from router.api.admin import read_again
from router.api.modelentry import entry, summary
from router.api.routed import call_to
from router.api.wire import json_response
from router.call import Policies
from router.config import Scope
from router.errors import RouterError
from router.fleet.fleet import Fleet
from router.fleet.lifecycle import ModelStatus, ReplicaStatus
from router.policy.table import Table
from router.rpc.replica import Replica

STATS_SECONDS = 1.0  # that a worker gets to say what it counts


async def list_models(request: Request) -> Response:
    """Every name, in alphabetical order; with ?reload=1 after the configuration was read again."""
    _reload_if_asked(request)
    return _listed({name: entry(name, status) for name, status in _named(request).items()})


async def list_with_replicas(request: Request) -> Response:
    """As list_models, each with its replicas."""
    _reload_if_asked(request)
    named = _named(request)
    models = {status.name: status for status in named.values()}
    told = await asyncio.gather(*(_replicas(_fleet(request), status) for status in models.values()))
    replicas = dict(zip(models, told, strict=True))
    return _listed({name: {**entry(name, status), "replicas": replicas[status.name]} for name, status in named.items()})


async def get_model(request: Request) -> Response:
    """One name's entry."""
    route = call_to(request, request.path_params["model"]).route
    return json_response(entry(route.alias, _fleet(request).status(route.model)))


def _listed(entries: Mapping[str, Mapping[str, Any]]) -> Response:
    names = sorted(entries)
    return json_response(
        {"models": [summary(name) for name in names], "object": "list", "data": [entries[name] for name in names]}
    )


def _reload_if_asked(request: Request) -> None:
    """As llama-server does for any value; but it is for administrators."""
    if request.query_params.get("reload"):
        request.state.guard.check_also(request, Scope.ADMIN)
        read_again(request.app)


def _named(request: Request) -> dict[str, ModelStatus]:
    """What the request's key may ask for and may see now, after a reload of its own or another's."""
    table: Table = request.app.state.table
    statuses = _statuses(request)
    listed = table.aliases.listed(request.state.guard.key_by_now(request).models)
    return {name: statuses[model] for name, model in listed.items() if model in statuses}


def _statuses(request: Request) -> dict[str, ModelStatus]:
    policies: Policies = request.app.state.policies
    return {status.name: status for status in policies.dispatcher.models()}


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
