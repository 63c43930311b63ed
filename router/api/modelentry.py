"""What GET /models tells of a model under one of its names: llama-server's fields, in router mode too.

Called by models.py, and by lifecycle.py, whose events tell it of a model that was loaded. Invariant: nothing here asks
a worker.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from protos import inference_pb2 as pb
from router.fleet.lifecycle import ModelState, ModelStatus
from router.supervision.progress import Progress

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


def entry(name: str, status: ModelStatus) -> dict[str, Any]:
    """`can_remove`: a model of a configuration is no entry of a cache, and stays as long as it is configured."""
    return {
        **facts(name, status),
        "status": _status(status),
        "source": status.source,
        "can_remove": False,
    }


def facts(name: str, status: ModelStatus) -> dict[str, Any]:
    """What stays the same while it is loaded."""
    return {
        "id": name,
        "aliases": sorted(status.aliases),
        "tags": [],
        "object": "model",
        "created": int(time.time()),
        "owned_by": "llamacpp",
        "meta": _meta(status.description),
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
    shown: dict[str, Any] = {
        "value": STATES[status.state],
        "args": list(status.arguments),
        "preset": preset(status),
    }
    if status.progress is not None and STATES[status.state] == "loading":
        shown["progress"] = progress(status.progress)
    if status.state is ModelState.FAILED:
        shown |= {"failed": True, "reason": status.reason}
        if status.exit_code is not None:
            shown["exit_code"] = status.exit_code
    return shown


def preset(status: ModelStatus) -> str:
    """The model as a section of a file for --models-preset."""
    path = () if status.path is None else (("model", str(status.path)),)
    lines = (f"{key} = {value}\n" for key, value in (*path, *_settings(status.arguments)))
    return f"[{status.name}]\n{''.join(lines)}\n"


def _settings(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """A worker's flags without their dashes; one without a value is on."""
    for flag, value in pairwise((*arguments, "--")):
        if flag.startswith("--"):
            yield flag.removeprefix("--"), "on" if value.startswith("--") else value


def progress(told: Progress) -> dict[str, Any]:
    """llama-server's shape; a worker tells one stage at a time."""
    return {"stages": [told.stage], "current": told.stage, "value": told.fraction}


def summary(name: str) -> dict[str, Any]:
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
