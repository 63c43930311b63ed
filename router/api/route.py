"""POST /v1/route: where a request would go, and why, without running it.

Called by app.py's route table with the body of any completion request. Invariant: it loads no model, takes no place and
changes no balance.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from protos import inference_pb2 as pb
from router.api.fields import Body
from router.api.messages import conversation
from router.api.prompts import prompts
from router.api.routed import routed
from router.api.sampling import parameters
from router.api.wire import json_response
from router.call import Call, Policies


async def route(request: Request) -> Response:
    """The alias, its model, the fallbacks behind it, and each replica's score; the lowest is the best."""
    call, body = await routed(request)
    policies: Policies = request.app.state.policies
    status = next(each for each in policies.dispatcher.models() if each.name == call.route.model)
    given = parameters(body, None, call.sampling)
    answer: dict[str, Any] = {
        "alias": call.route.alias,
        "model": call.route.model,
        "state": status.state,
        "fallbacks": [{"model": step.model, "on": sorted(step.on)} for step in call.route.fallbacks],
        "shadow": call.route.shadow,
        "policy": call.policy,
        **await _replicas(call, given.request("", _prompt(body, call.sampling), 0, return_prompt=False)),
    }
    return json_response(answer)


def _prompt(body: Body, defaults: Mapping[str, Any]) -> pb.Prompt:
    """The request's first prompt; an empty one if it has none, which is routed too."""
    if body.get("messages") is not None:
        return pb.Prompt(chat=conversation(body, defaults).proto)
    return prompts(body)[0].proto if body.get("prompt") is not None else pb.Prompt()


async def _replicas(call: Call, message: pb.GenerateRequest) -> dict[str, Any]:
    choice = await call.explain(message)
    if choice is None:
        return {"replica": None, "replicas": []}
    return {"replica": choice.name, "replicas": [asdict(score) for score in choice.scores]}
