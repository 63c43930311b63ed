"""GET /v1/models and /v1/models/{id}: what may be asked for, in llama-server's shape.

Called by app.py's route table. Invariant: one entry per name a request may use, whatever the state of its model.
"""

import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from protos import inference_pb2 as pb
from router.api.wire import json_response
from router.dispatch import Dispatcher
from router.supervisor import ModelState, ModelStatus

STATES: Mapping[ModelState, str] = {
    ModelState.LOADING: "loading",
    ModelState.READY: "loaded",
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
    dispatcher: Dispatcher = request.app.state.dispatcher
    name = dispatcher.resolve(request.path_params["model"]).alias
    return json_response(_entry(name, _named(request)[name]))


def _named(request: Request) -> dict[str, ModelStatus]:
    dispatcher: Dispatcher = request.app.state.dispatcher
    return {name: status for status in dispatcher.models() for name in status.aliases}


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
