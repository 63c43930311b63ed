"""POST /v1/chat/completions: OpenAI's chat format, with llama-server's fields and key order.

Called by app.py's route table. Invariant: a stream carries the role once, and with each progress of the prompt, no
empty content, exactly one finish per choice, and [DONE] only after all of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from protos import inference_pb2 as pb
from router.api.fields import Body, Field, Fields, boolean, integer, read
from router.api.generation import Run, run
from router.api.messages import conversation
from router.api.routed import routed
from router.api.sampling import MAX_LOGPROBS, Parameters, parameters
from router.api.streaming import DONE
from router.api.wire import (
    FINGERPRINT,
    FINISH_REASONS,
    Completion,
    Head,
    Progress,
    content_logprobs,
    json_response,
    prompt_progress,
    timings,
    total_usage,
)
from router.errors import InvalidRequest

DEFAULT_TOP_LOGPROBS = 20
LOGPROBS = Fields(
    Field("logprobs", boolean, False),
    Field("top_logprobs", integer, None, 0, MAX_LOGPROBS),
    Field("n_probs", integer, 0, 0, MAX_LOGPROBS),
)


async def chat_completions(request: Request) -> Response:
    """The next message of a conversation."""
    call, body = await routed(request)
    given = parameters(body, _num_logprobs(body), call.sampling)
    asked = conversation(body, call.sampling)
    begun = run(call, given, [pb.Prompt(chat=asked.proto)], return_prompt=False)
    if given["stream"]:
        opening = asked.opening if asked.opens_stream else ""
        events = [ChatEvents(begun.head, index, given, opening) for index in range(len(begun.generations))]
        return begun.event_stream(events, lambda: _closing(begun.head, events, given))
    return await begun.answer(request, _whole(begun, asked.opening))


def _num_logprobs(body: Body) -> int | None:
    given = read(LOGPROBS, body)
    if given["top_logprobs"] is not None and not given["logprobs"]:
        raise InvalidRequest("top_logprobs requires logprobs to be set to true")
    if given["logprobs"]:
        return DEFAULT_TOP_LOGPROBS if given["top_logprobs"] is None else int(given["top_logprobs"])
    return given["n_probs"] or None


async def _whole(begun: Run, opening: str) -> Response:
    completions = await begun.completions()
    choices = [_choice(index, each, begun.parameters, opening) for index, each in enumerate(completions)]
    return json_response(
        {
            "choices": choices,
            **_head(begun.head, "chat.completion"),
            "usage": total_usage([(each.started, each.finished) for each in completions], len(completions)),
            "id": begun.head.id,
            "timings": timings(completions[-1].finished.timings),
        }
    )


def _choice(index: int, completion: Completion, given: Parameters, opening: str) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "finish_reason": FINISH_REASONS[completion.finished.reason],
        "index": index,
        "message": {"role": "assistant", "content": opening + completion.text, "refusal": None},
    }
    if completion.logprobs:
        choice["logprobs"] = content_logprobs(completion.logprobs, after_sampling=given.after_sampling)
    return choice


def _head(head: Head, kind: str) -> Mapping[str, Any]:
    return {"created": head.created, "model": head.model, "system_fingerprint": FINGERPRINT, "object": kind}


class ChatEvents:
    """One choice of a chat stream. What all its chunks share is rendered once; its first text follows the opening."""

    def __init__(self, head: Head, index: int, given: Parameters, opening: str = "") -> None:
        self._given = given
        self._opening = opening
        self._progress = Progress()
        self._pending: list[pb.TokenLogprob] = []
        self._prefix = b'data: {"choices":[{"finish_reason":null,"index":%d,"delta":' % index
        self._finish = b'data: {"choices":[{"finish_reason":"%%s","index":%d,"delta":{}' % index
        self._suffix = _chunk_suffix(head)
        self._content = self._prefix + b'{"content":'
        self._tells_progress = bool(given["timings_per_token"])
        self._tells_logprobs = given.num_logprobs is not None
        self.end = pb.Finished()

    @property
    def ends(self) -> tuple[pb.Started, pb.Finished]:
        return self._progress.started, self.end

    def started(self, started: pb.Started) -> bytes:
        self._progress.start(started)
        return self._role_chunk()

    def progress(self, progress: pb.PromptProgress) -> bytes:
        return self._role_chunk(prompt_progress(progress))

    def delta(self, delta: pb.Delta) -> bytes:
        self._progress.add(len(delta.tokens))
        if self._tells_logprobs:
            self._pending.extend(delta.logprobs)
        return self._text(delta.text)

    def finished(self, finished: pb.Finished) -> bytes:
        self.end = finished
        unsent = self._text("")
        reason = self._finish % FINISH_REASONS[finished.reason].encode()
        tail = b"" if self._given.include_usage else _timings(finished.timings)
        return unsent + reason + self._logprobs() + b"}]" + self._suffix + tail + b"}\n\n"

    def _text(self, more: str) -> bytes:
        """A chunk with the text that follows; none for no text."""
        text, self._opening = self._opening + more, ""
        if not text:
            return b""
        progress = _timings(self._progress.timings()) if self._tells_progress else b""
        content = self._content + orjson.dumps(text) + b"}"
        return content + self._logprobs() + b"}]" + self._suffix + progress + b"}\n\n"

    def _role_chunk(self, more: bytes = b"") -> bytes:
        return self._prefix + b'{"role":"assistant","content":null}}]' + self._suffix + more + b"}\n\n"

    def _logprobs(self) -> bytes:
        """Of the text now sent, and of tokens before it whose text was held back."""
        if not self._pending:
            return b""
        entries, self._pending = self._pending, []
        shown = content_logprobs(entries, after_sampling=self._given.after_sampling)
        return b',"logprobs":' + orjson.dumps(shown)


def _closing(head: Head, events: Sequence[ChatEvents], given: Parameters) -> bytes:
    """The last chunk with the usage, if asked for, and the end mark."""
    if not given.include_usage:
        return DONE
    totals = orjson.dumps(total_usage([each.ends for each in events], len(events)))
    chunk = b'data: {"choices":[]' + _chunk_suffix(head) + b',"usage":' + totals
    return chunk + _timings(events[-1].end.timings) + b"}\n\n" + DONE


def _chunk_suffix(head: Head) -> bytes:
    """A chunk after its choices, but for the closing brace."""
    shared = {"created": head.created, "id": head.id, "model": head.model, "system_fingerprint": FINGERPRINT}
    return b"," + orjson.dumps({**shared, "object": "chat.completion.chunk"})[1:-1]


def _timings(given: pb.Timings) -> bytes:
    return b',"timings":' + orjson.dumps(timings(given))
