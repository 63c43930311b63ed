"""POST /v1/completions: OpenAI's text completions, with llama-server's fields and key order.

Called by app.py's route table. Log probabilities are given in both shapes at once: llama-server's `content` and
OpenAI's parallel arrays. Invariant: choices stand in prompt order; a stream's last finish carries the usage, and
[DONE] comes only after every choice's finish.
"""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from protos import inference_pb2 as pb
from router.api.fields import FLOAT32_MAX, Field, Fields, boolean, integer, read, string
from router.api.generation import Run, run
from router.api.prompts import PromptText, prompts
from router.api.routed import routed
from router.api.sampling import MAX_LOGPROBS, Parameters, parameters
from router.api.streaming import DONE
from router.api.wire import (
    FINGERPRINT,
    FINISH_REASONS,
    Completion,
    Head,
    Progress,
    finite,
    json_response,
    piece_text,
    probabilities,
    prompt_progress,
    timings,
    total_usage,
)
from router.errors import NotSupported

TABLE = Fields(
    Field("logprobs", integer, None, 0, MAX_LOGPROBS, aliases=("n_probs",)),
    Field("echo", boolean, False),
    Field("suffix", string, "", neutral=lambda value: not value),
    Field("best_of", integer, 1, 1),
)
_Utf8 = getincrementaldecoder("utf-8")


async def completions(request: Request) -> Response:
    """Texts that go on from prompts."""
    call, body = await routed(request)
    own = read(TABLE, body)
    given = replace(parameters(body, own["logprobs"], call.sampling), scores_prompt=own["echo"])
    _check_together(own, given)
    texts = prompts(body)
    begun = run(call, given, [text.proto for text in texts], return_prompt=own["echo"])
    echoes = _echoes(texts, given) if own["echo"] else [""] * len(begun.generations)
    if given["stream"]:
        stream = TextStream(begun.head, given, len(echoes))
        events = [TextEvents(stream, index, echo) for index, echo in enumerate(echoes)]
        return begun.event_stream(events, lambda: DONE)
    return await begun.answer(request, _whole(begun, echoes))


def _check_together(own: dict[str, Any], given: Parameters) -> None:
    if own["best_of"] > given["n_cmpl"]:
        raise NotSupported(f"Field 'best_of': {own['best_of']} is not supported yet (more than 'n')")


def _echoes(texts: Sequence[PromptText], given: Parameters) -> list[str | None]:
    """What stands before each choice's text; None: the prompt as the worker renders it."""
    return [text.text for text in texts for _ in range(given["n_cmpl"])]


def _echoed(echo: str | None, started: pb.Started) -> str:
    return started.prompt if echo is None else echo


async def _whole(begun: Run, echoes: Sequence[str | None]) -> Response:
    ends = await begun.completions()
    pairs = enumerate(zip(ends, echoes, strict=True))
    choices = [_choice(index, end, echo, begun.parameters) for index, (end, echo) in pairs]
    totals = total_usage([(end.started, end.finished) for end in ends], begun.parameters["n_cmpl"])
    return json_response(
        {
            "choices": choices,
            **_head(begun.head),
            "usage": totals,
            "id": begun.head.id,
            "timings": timings(ends[-1].finished.timings),
        }
    )


def _choice(index: int, end: Completion, echo: str | None, given: Parameters) -> dict[str, Any]:
    return {
        "text": _echoed(echo, end.started) + end.text,
        "index": index,
        "logprobs": _logprobs(TextLogprobs(given), end, _echoed(echo, end.started)),
        "finish_reason": FINISH_REASONS[end.finished.reason],
    }


def _head(head: Head) -> dict[str, Any]:
    shared = {"created": head.created, "model": head.model, "system_fingerprint": FINGERPRINT}
    return {**shared, "object": "text_completion"}


class TextLogprobs:
    """Log probabilities in both shapes; remembers how much text came before, for text_offset."""

    def __init__(self, given: Parameters) -> None:
        self._given = given
        self._offset = 0
        self._decoder = _Utf8("replace")

    def add(
        self, entries: Sequence[pb.TokenLogprob], prompt: Sequence[pb.TokenLogprob] = (), echo: str = ""
    ) -> dict[str, Any]:
        """The logprobs object of the next tokens; of all of the prompt's before them, which read `echo`."""
        everything = [*prompt, *entries]
        first = 1 if prompt else 0  # it comes after nothing, so nothing says how likely it is
        nothing = [None] * first
        return {
            "content": probabilities(everything[first:], after_sampling=self._given.after_sampling),
            "tokens": [piece_text(entry.piece) for entry in everything],
            "token_logprobs": [*nothing, *(finite(entry.logprob) for entry in everything[first:])],
            "top_logprobs": [*nothing, *(_alternatives(entry) for entry in everything[first:])],
            "text_offset": [*self._prompt_offsets(prompt, echo), *(self._advance(entry.piece) for entry in entries)],
        }

    def _prompt_offsets(self, prompt: Sequence[pb.TokenLogprob], echo: str) -> list[int]:
        """A token that the text does not show, as one that begins every sequence, takes no room in it."""
        rest = b"".join(entry.piece for entry in prompt)
        hidden = len(rest) - len(echo.encode())
        offsets = []
        for entry in prompt:
            is_hidden = 0 < len(entry.piece) <= hidden and not echo[self._offset :].encode().startswith(entry.piece)
            hidden -= len(entry.piece) if is_hidden else 0
            offsets.append(self._offset if is_hidden else self._advance(entry.piece))
        return offsets

    def _advance(self, piece: bytes) -> int:
        offset = self._offset
        self._offset += len(self._decoder.decode(piece))
        return offset


def _alternatives(entry: pb.TokenLogprob) -> dict[str, float]:
    """The most likely tokens and the chosen one; of pieces that read alike, the likelier."""
    result: dict[str, float] = {}
    pairs = [(top.piece, top.logprob) for top in entry.top]
    for piece, logprob in (*pairs, (entry.piece, entry.logprob)):
        text = piece_text(piece)
        result[text] = max(result.get(text, -FLOAT32_MAX), logprob)
    return result


def _logprobs(shown: TextLogprobs, end: Completion, echo: str) -> dict[str, Any] | None:
    """Of the prompt's tokens, if they were asked for, and of the answer's."""
    if not end.logprobs and not end.prompt_logprobs:
        return None
    return shown.add(end.logprobs, end.prompt_logprobs, echo)


class TextStream:
    """What the choices of one stream share: the chunk's head and who has come to an end."""

    def __init__(self, head: Head, given: Parameters, num_choices: int) -> None:
        self.given = given
        self.head = orjson.dumps(_head(head))[1:-1]
        self.id = orjson.dumps({"id": head.id})[1:-1]
        self._ends: list[tuple[pb.Started, pb.Finished] | None] = [None] * num_choices

    def end(self, index: int, started: pb.Started, finished: pb.Finished) -> bytes:
        """The usage of all, for the last choice to end; nothing for those before it."""
        self._ends[index] = started, finished
        ends = [end for end in self._ends if end is not None]
        if len(ends) < len(self._ends):
            return b""
        return b'"usage":' + orjson.dumps(total_usage(ends, self.given["n_cmpl"])) + b","


class TextEvents:
    """One choice of a text stream."""

    def __init__(self, stream: TextStream, index: int, echo: str | None) -> None:
        self._stream = stream
        self._index = index
        self._echo = echo
        self._progress = Progress()
        self._logprobs = TextLogprobs(stream.given)
        self._pending: list[pb.TokenLogprob] = []
        self._prompt: list[pb.TokenLogprob] = []
        self._suffix = b"," + stream.head + b"," + stream.id

    def started(self, started: pb.Started) -> bytes:
        self._progress.start(started)
        echo = _echoed(self._echo, started)
        return self._chunk(echo) if echo else b""

    def progress(self, progress: pb.PromptProgress) -> bytes:
        return self._choice("", None) + self._suffix + prompt_progress(progress) + b"}\n\n"

    def delta(self, delta: pb.Delta) -> bytes:
        self._progress.add(len(delta.tokens))
        self._pending.extend(delta.logprobs)
        self._prompt.extend(delta.prompt_logprobs)
        return self._chunk(delta.text) if delta.text else b""

    def finished(self, finished: pb.Finished) -> bytes:
        choice = self._choice("", FINISH_REASONS[finished.reason])
        totals = self._stream.end(self._index, self._progress.started, finished)
        tail = b"," + self._stream.head + b"," + totals + self._stream.id + _timings(finished.timings)
        return choice + tail + b"}\n\n"

    def _chunk(self, text: str) -> bytes:
        running = _timings(self._progress.timings()) if self._stream.given["timings_per_token"] else b""
        return self._choice(text, None) + self._suffix + running + b"}\n\n"

    def _choice(self, text: str, finish_reason: str | None) -> bytes:
        entries, self._pending = self._pending, []
        prompt, self._prompt = self._prompt, []
        echo = _echoed(self._echo, self._progress.started)
        logprobs = self._logprobs.add(entries, prompt, echo) if entries or prompt else None
        choice = {"text": text, "index": self._index, "logprobs": logprobs, "finish_reason": finish_reason}
        return b'data: {"choices":[' + orjson.dumps(choice) + b"]"


def _timings(given: pb.Timings) -> bytes:
    return b',"timings":' + orjson.dumps(timings(given))
