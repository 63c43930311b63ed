"""GET /admin/fleet and /admin/logs: the models' workers as operators see them; what `corral ps`, `top` and `logs` ask.

Called by app.py's route table. Invariant: nothing here waits for a model or wakes one.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from protos import inference_pb2 as pb
from router.api.listening import listening
from router.api.metrics import Reading, readings
from router.api.routed import call_to, check_name
from router.api.streaming import SendFrame
from router.api.wire import json_response
from router.call import Policies
from router.errors import InvalidRequest
from router.fleet.lifecycle import ModelStatus
from router.fleet.tally import Tally
from router.supervision.tail import MAX_LINES, Tail

DEFAULT_LINES = 50
TEXT = "text/plain; charset=utf-8"


async def fleet(request: Request) -> Response:
    """Every model: its state, its worker, its line, and what it has computed so far."""
    policies: Policies = request.app.state.policies
    dispatcher, models = policies.dispatcher, request.app.state.fleet
    told = await readings(models, dispatcher)
    rows = [
        _model(status, told[status.name], models.tally(status.name), dispatcher.num_waiting(status.name))
        for status in dispatcher.models()
        if status.name in told  # else a reload has just brought it
    ]
    return json_response({"object": "fleet", "models": rows})


def _model(status: ModelStatus, reading: Reading, tally: Tally, num_waiting: int) -> dict[str, Any]:
    known = status.description
    return {
        "name": status.name,
        "aliases": list(status.aliases[1:]),
        "path": str(status.path) if status.path is not None else None,
        "architecture": known.architecture if known else None,
        "file_type": known.file_type if known else None,
        "context_length": known.context_length if known else None,
        "state": status.state.value,
        "reason": status.reason,
        "progress": {"stage": status.progress.stage, "fraction": status.progress.fraction} if status.progress else None,
        "pids": [replica.pid for replica in status.replicas if replica.pid is not None],
        "remote": [
            {"address": replica.address, "state": replica.state.value, "reason": replica.reason}
            for replica in status.replicas
            if replica.is_remote
        ],
        "crashes": status.num_crashes,
        "waiting": num_waiting,
        "tokens_per_second": round(tally.tokens_per_second, 3) if reading.is_live else None,
        **_figures(reading),
    }


def _cache(stats: pb.StatsReply) -> Mapping[str, Any]:
    """What is kept of prompts and answers, in blocks; replicas that keep the same have the same digest."""
    return {
        "blocks": stats.num_blocks,
        "used": stats.num_blocks - stats.num_free_blocks - stats.num_cached_blocks,
        "cached": stats.num_cached_blocks,
        "prefix_blocks": stats.num_prefix_blocks,
        "prefixes": stats.num_prefixes,
        "digest": f"{stats.prefix_digest:016x}",
    }


def _figures(reading: Reading) -> Mapping[str, Any]:
    """How its workers stand, null while they cannot be asked; and what all it ever had have counted."""
    stats, is_live = reading.stats, reading.is_live
    return {
        "running": stats.num_running if is_live else None,
        "resident_bytes": stats.resident_bytes if is_live else None,
        "proportional_bytes": (stats.proportional_bytes or None) if is_live else None,
        "prompt_tokens_total": stats.prompt_tokens_total,
        "cached_tokens_total": stats.cached_tokens_total,
        "predicted_tokens_total": stats.predicted_tokens_total,
        "predicted_seconds_total": stats.predicted_seconds_total,
        "cache": _cache(stats) if is_live else None,
    }


async def logs(request: Request) -> Response:
    """A model's last lines as text, ?model=NAME&lines=N; with follow=1 as events, each a line as a JSON string."""
    policies: Policies = request.app.state.policies
    route = call_to(request, request.query_params.get("model")).route
    name = route.model
    if next(status for status in policies.dispatcher.models() if status.name == name).path is None:
        raise InvalidRequest(f"model '{name}' runs on other hosts only: what its workers write is there")
    tail = policies.dispatcher.output(name)
    num_lines = _num_lines(request.query_params.get("lines"))
    if request.query_params.get("follow") in ("1", "true"):
        return listening(request, partial(_follow, tail, num_lines), partial(check_name, route.alias))
    text = "".join(f"{line}\n" for line in tail.last(num_lines))
    return Response(text, headers={"content-type": TEXT})


def _num_lines(given: str | None) -> int:
    if given is None:
        return DEFAULT_LINES
    if not given.isdecimal() or int(given[:9]) > MAX_LINES:
        raise InvalidRequest(f"lines must be between 0 and {MAX_LINES}, but is '{given[:20]}'")
    return int(given)


async def _follow(tail: Tail, num_lines: int, send: SendFrame) -> None:
    await send(b"")  # the answer begins, even if no line comes for long
    async for line in tail.follow(num_lines):
        await send(b"data: " + orjson.dumps(line) + b"\n\n")
