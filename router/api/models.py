"""GET /v1/models and /v1/models/{id}: what may be asked for, in llama-server's shape.

Called by app.py's route table. Invariant: one entry per name a request may use, whatever the state of its model, but
none for a hidden name or one that is not for the key that asks.
"""

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
from router.lifecycle import ModelState, ModelStatus
from router.table import Table

STATES: Mapping[ModelState, str] = {
    ModelState.UNLOADED: "unloaded",
    ModelState.LOADING: "loading",
    ModelState.READY: "loaded",
    ModelState.DRAINING: "unloaded",
    ModelState.CRASHED: "loading",
    ModelState.FAILED: "unloaded",
    ModelState.STOPPED: "unloaded",
}


async def list_models(request: Request) -> Response:
    """Every name, in alphabetical order."""
    named = sorted(_named(request).items())
    return json_response(
        {
            "models": [_summary(name) for name, _ in named],
            "object": "list",
            "data": [_entry(name, status) for name, status in named],
        }
    )


async def get_model(request: Request) -> Response:
    """One name's entry."""
    route = call_to(request, request.path_params["model"]).route
    return json_response(_entry(route.alias, _statuses(request)[route.model]))


def _named(request: Request) -> dict[str, ModelStatus]:
    """What the request's key may ask for and may see."""
    table: Table = request.state.table
    key: KeyConfig = request.state.key
    statuses = _statuses(request)
    return {name: statuses[model] for name, model in table.aliases.listed(key.models).items()}


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
    shown: dict[str, Any] = {"value": STATES[status.state]}
    if status.state is ModelState.FAILED:
        shown |= {"failed": True, "reason": status.reason}
    return shown


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
