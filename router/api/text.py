"""POST /tokenize, /detokenize and /apply-template: the model's text machinery without the model.

Called by app.py's route table. Invariant: nothing is generated, and no text is changed on its way to the worker.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from protos import inference_pb2 as pb
from router.api.fields import Field, Fields, anything, boolean, read, wrong_type
from router.api.generation import answered
from router.api.messages import conversation
from router.api.prompts import parts, token_ids
from router.api.routed import routed
from router.api.wire import json_response

TOKENIZE = Fields(
    Field("content", anything, None, aliases=("prompt",)),
    Field("add_special", boolean, False, aliases=("add_special_tokens",)),
    Field("parse_special", boolean, True),
    Field("with_pieces", boolean, False),
)


async def tokenize(request: Request) -> Response:
    """Text to token ids."""
    call, body = await routed(request)
    given = read(TOKENIZE, body)
    message = pb.TokenizeRequest(
        content=_content(given["content"]), add_special=given["add_special"], parse_special=given["parse_special"]
    )

    async def work() -> Response:
        reply = await call.ask(lambda replica: replica.tokenize(message))
        return json_response({"tokens": _pieces(reply) if given["with_pieces"] else list(reply.tokens)})

    return await answered(request, call, work())


def _content(value: Any) -> pb.PromptParts:
    """Text, or an array of texts and ids; nothing is no tokens."""
    if value is None:
        return pb.PromptParts()
    if isinstance(value, str):
        return pb.PromptParts(parts=[pb.PromptPart(text=value)])
    if not isinstance(value, list):
        raise wrong_type("content", "a string or an array of strings and token ids", value)
    return parts("content", value)


def _pieces(reply: pb.TokenizeReply) -> list[dict[str, Any]]:
    return [{"id": token, "piece": _piece(piece)} for token, piece in zip(reply.tokens, reply.pieces, strict=True)]


def _piece(piece: bytes) -> str | list[int]:
    """Text where the bytes are text, else the bytes."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


async def detokenize(request: Request) -> Response:
    """Token ids to text."""
    call, body = await routed(request)
    tokens = body.get("tokens")
    message = pb.DetokenizeRequest(tokens=[] if tokens is None else token_ids("tokens", tokens))

    async def work() -> Response:
        return json_response({"content": (await call.ask(lambda replica: replica.detokenize(message))).text})

    return await answered(request, call, work())


async def apply_template(request: Request) -> Response:
    """A conversation to the prompt the model would read."""
    call, body = await routed(request)
    message = pb.ApplyTemplateRequest(chat=conversation(body, call.sampling).proto)

    async def work() -> Response:
        return json_response({"prompt": (await call.ask(lambda replica: replica.apply_template(message))).prompt})

    return await answered(request, call, work())
