"""POST /completion: llama-server's own format.

Called by app.py's route table. Invariant: the last event of a stream says "stop":true; there is no [DONE].
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from protos import inference_pb2 as pb
from router.api.fields import Field, Fields, boolean, integer, read
from router.api.generation import Run, run
from router.api.prompts import prompts
from router.api.routed import routed
from router.api.sampling import MAX_LOGPROBS, Parameters, generation_settings, parameters
from router.api.wire import Completion, Head, Progress, json_response, probabilities, prompt_progress, timings

STOP_TYPES: Mapping[int, str] = {
    pb.END_OF_SEQUENCE: "eos",
    pb.STOP_STRING: "word",
    pb.LENGTH: "limit",
    pb.NO_PROMPT: "none",
}


def _paths(_: Field, value: Any) -> Sequence[str]:
    """An array of strings; anything else asks for no selection, as it does of llama-server."""
    return value if isinstance(value, list) and all(isinstance(path, str) for path in value) else ()


TABLE = Fields(
    Field("n_probs", integer, 0, 0, MAX_LOGPROBS, aliases=("logprobs",)),
    Field("return_tokens", boolean, False),
    Field("response_fields", _paths, ()),
)


async def completion(request: Request) -> Response:
    """Text that goes on from a prompt; an array where there are several."""
    call, body = await routed(request)
    own = read(TABLE, body)
    given = parameters(body, own["n_probs"] or None, call.sampling)
    protos = [text.proto for text in prompts(body)]
    begun = run(call, given, protos, return_prompt=True)
    if given["stream"]:
        events = [
            NativeEvents(begun.head, index, given, own["response_fields"]) for index in range(len(begun.generations))
        ]
        return begun.event_stream(events, lambda: b"")
    return await begun.answer(request, _whole(begun, own))


async def _whole(begun: Run, own: Mapping[str, Any]) -> Response:
    results = []
    for index, end in enumerate(await begun.completions()):
        result = final(begun, index, end, own["return_tokens"])
        results.append(selected(result, own["response_fields"]))
    return json_response(results[0] if len(results) == 1 else results)


def final(begun: Run, index: int, end: Completion, return_tokens: bool) -> dict[str, Any]:
    """The whole answer of one generation."""
    head = _final_head(index, end.text, end.tokens if return_tokens else [], begun.head, end.started.place)
    return {
        **head,
        **_end(begun.parameters, end.started, end.finished, "\n" in end.text),
        **_probabilities(end.logprobs, begun.parameters),
    }


def _final_head(index: int, content: str, tokens: Sequence[int], head: Head, slot: int) -> dict[str, Any]:
    return {
        "index": index,
        "content": content,
        "tokens": tokens,
        "id_slot": slot,
        "stop": True,
        "model": head.model,
    }


def _end(given: Parameters, started: pb.Started, finished: pb.Finished, has_new_line: bool) -> dict[str, Any]:
    num_prompt, num_predicted = finished.num_prompt_tokens, finished.num_completion_tokens
    return {
        "tokens_predicted": num_predicted,
        "tokens_evaluated": num_prompt,
        "generation_settings": generation_settings(given, started.seed),
        "prompt": started.prompt,
        "has_new_line": has_new_line,
        "truncated": finished.truncated,
        "stop_type": STOP_TYPES[finished.reason],
        "stopping_word": finished.stop_string,
        "tokens_cached": num_prompt + max(num_predicted - 1, 0),  # the last token's keys are never computed
        "timings": timings(finished.timings),
    }


def _probabilities(entries: Sequence[pb.TokenLogprob], given: Parameters) -> dict[str, Any]:
    if not entries:
        return {}
    return {"completion_probabilities": probabilities(entries, after_sampling=given.after_sampling)}


def selected(result: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """The fields asked for, all if none are; "a/b" is found inside "a" and stands at the root as "a/b"."""
    if not fields:
        return result
    found = {path: _at(result, path.split("/")) for path in fields}
    return {path: value[0] for path, value in found.items() if value}


def _at(result: Any, path: Sequence[str]) -> tuple[Any, ...]:
    """The value at a path, or nothing."""
    for name in path:
        if not isinstance(result, dict) or name not in result:
            return ()
        result = result[name]
    return (result,)


class NativeEvents:
    """One generation of a native stream."""

    def __init__(self, head: Head, index: int, given: Parameters, response_fields: Sequence[str]) -> None:
        self._head = head
        self._index = index
        self._given = given
        self._response_fields = response_fields
        self._progress = Progress()
        self._has_new_line = False
        self._prefix = b'data: {"index":%d,"content":' % index

    def started(self, started: pb.Started) -> bytes:
        self._progress.start(started)
        return b""

    def delta(self, delta: pb.Delta) -> bytes:
        self._progress.add(len(delta.tokens))
        self._has_new_line = self._has_new_line or "\n" in delta.text
        return self._chunk(delta.text, delta.tokens, self._extras(delta))

    def progress(self, progress: pb.PromptProgress) -> bytes:
        return self._chunk("", (), prompt_progress(progress))

    def _chunk(self, text: str, tokens: Sequence[int], more: bytes) -> bytes:
        started = self._progress.started
        return b'%b%b,"tokens":%b,"stop":false,"id_slot":%d,"tokens_predicted":%d,"tokens_evaluated":%d%b}\n\n' % (
            self._prefix,
            orjson.dumps(text),
            orjson.dumps(list(tokens)),
            started.place,
            self._progress.num_tokens,
            started.num_prompt_tokens,
            more,
        )

    def finished(self, finished: pb.Finished) -> bytes:
        started = self._progress.started
        end = _end(self._given, started, finished, self._has_new_line)
        result = {**_final_head(self._index, "", [], self._head, started.place), **end}
        return b"data: " + orjson.dumps(selected(result, self._response_fields)) + b"\n\n"

    def _extras(self, delta: pb.Delta) -> bytes:
        shown: dict[str, Any] = {}
        if self._given["timings_per_token"]:
            shown["timings"] = timings(self._progress.timings())
        shown.update(_probabilities(delta.logprobs, self._given))
        return b"," + orjson.dumps(shown)[1:-1] if shown else b""
