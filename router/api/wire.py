"""The JSON pieces the completion formats share: ids, usage, timings, log probabilities, and the gathering of replies.

Called by api/chat.py, completions.py and native.py. Key order is llama-server's. Invariant: pure; no I/O but the
clock of Progress.
"""

import math
import os
import time
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.responses import Response

from protos import inference_pb2 as pb
from router.api.fields import FLOAT32_MAX
from router.dispatch import Generation
from router.errors import JSON_CONTENT_TYPE

_JSON = (b"content-type", JSON_CONTENT_TYPE.encode())
FINGERPRINT = "b0-corral"
FINISH_REASONS: Mapping[int, str] = {
    pb.END_OF_SEQUENCE: "stop",
    pb.STOP_STRING: "stop",
    pb.LENGTH: "length",
    pb.NO_PROMPT: "length",
}


def json_response(content: Any) -> Response:
    """A 200 with compact JSON."""
    return JsonResponse(orjson.dumps(content))


class JsonResponse(Response):
    """A 200 whose headers are made as they are sent."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        self.raw_headers = [_JSON, (b"content-length", b"%d" % len(self.body))]


def random_id() -> str:
    """32 letters and digits from 24 random bytes; two letters come twice as often as the others."""
    return b64encode(os.urandom(24), b"aB").decode()


@dataclass(frozen=True, slots=True)
class Head:
    """What every object and chunk of one answer repeats."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{random_id()}")
    created: int = field(default_factory=lambda: int(time.time()))


@dataclass(slots=True)
class Completion:
    """All replies of one generation, put together."""

    started: pb.Started = field(default_factory=pb.Started)
    texts: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[pb.TokenLogprob] = field(default_factory=list)
    finished: pb.Finished = field(default_factory=pb.Finished)
    prompt_logprobs: list[pb.TokenLogprob] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    async def take(self, replies: Iterable[pb.GenerateReply]) -> None:
        """The next replies."""
        for reply in replies:
            if reply.HasField("delta"):
                self._take_delta(reply.delta)
            elif reply.HasField("started"):
                self.started = reply.started
            elif reply.HasField("finished"):
                self.finished = reply.finished

    def _take_delta(self, delta: pb.Delta) -> None:
        self.texts.append(delta.text)
        self.tokens += delta.tokens
        self.logprobs += delta.logprobs
        self.prompt_logprobs += delta.prompt_logprobs


async def collect(generation: Generation) -> Completion:
    """The generation at its end."""
    completion = Completion()
    await generation(completion.take)
    return completion


class Progress:
    """Counts and clock of one generation in flight, for timings before its end."""

    def __init__(self) -> None:
        self._begun = self._first = time.perf_counter()
        self.started = pb.Started()
        self.num_tokens = 0

    def start(self, started: pb.Started) -> None:
        self.started = started

    def add(self, num_tokens: int) -> None:
        if self.num_tokens == 0:
            self._first = time.perf_counter()
        self.num_tokens += num_tokens

    def timings(self) -> pb.Timings:
        """As seen from here; the worker's own come with Finished."""
        return pb.Timings(
            num_cached=self.started.num_cached_tokens,
            num_prompt=self.started.num_prompt_tokens - self.started.num_cached_tokens,
            prompt_ms=1e3 * (self._first - self._begun),
            num_predicted=self.num_tokens,
            predicted_ms=1e3 * (time.perf_counter() - self._first),
        )


def usage(num_prompt: int, num_cached: int, num_completion: int) -> dict[str, Any]:
    """The usage object."""
    return {
        "completion_tokens": num_completion,
        "prompt_tokens": num_prompt,
        "total_tokens": num_prompt + num_completion,
        "prompt_tokens_details": {"cached_tokens": num_cached},
    }


def total_usage(ends: Iterable[tuple[pb.Started, pb.Finished]], num_choices: int) -> dict[str, Any]:
    """Usage over all choices; a prompt shared by `num_choices` of them, in a row, counts once."""
    pairs = list(ends)
    firsts = pairs[::num_choices]
    return usage(
        sum(finished.num_prompt_tokens for _, finished in firsts),
        sum(started.num_cached_tokens for started, _ in firsts),
        sum(finished.num_completion_tokens for _, finished in pairs),
    )


def timings(given: pb.Timings) -> dict[str, Any]:
    """The timings object; rates of nothing are 0. Who waited for a place is told how long, guesses are told if any."""
    queued = {"queue_ms": given.queued_ms} if given.queued_ms >= 1 else {}
    drafts = {"draft_n": given.num_drafted, "draft_n_accepted": given.num_accepted} if given.num_drafted else {}
    return {
        "cache_n": given.num_cached,
        "prompt_n": given.num_prompt,
        "prompt_ms": given.prompt_ms,
        "prompt_per_token_ms": _ratio(given.prompt_ms, given.num_prompt),
        "prompt_per_second": _ratio(1e3 * given.num_prompt, given.prompt_ms),
        "predicted_n": given.num_predicted,
        "predicted_ms": given.predicted_ms,
        "predicted_per_token_ms": _ratio(given.predicted_ms, given.num_predicted),
        "predicted_per_second": _ratio(1e3 * given.num_predicted, given.predicted_ms),
        **drafts,
        **queued,
    }


def prompt_progress(given: pb.PromptProgress) -> bytes:
    """The member of a chunk that tells it, behind a comma."""
    shown = {
        "total": given.num_prompt_tokens,
        "cache": given.num_cached_tokens,
        "processed": given.num_done,
        "time_ms": int(given.ms),
    }
    return b',"prompt_progress":' + orjson.dumps(shown)


def _ratio(number: float, by: float) -> float:
    return number / by if by > 0 else 0.0


def probabilities(entries: Iterable[pb.TokenLogprob], *, after_sampling: bool) -> list[dict[str, Any]]:
    """llama-server's list of tokens with their log probabilities and alternatives; with probabilities instead, if they
    are those after sampling."""
    shown, name = (_probability, "top_probs") if after_sampling else (_log_probability, "top_logprobs")
    return [{**shown(entry), name: [shown(top) for top in entry.top]} for entry in entries]


def _log_probability(entry: pb.TokenLogprob | pb.TopLogprob) -> dict[str, Any]:
    return {**_token(entry), "logprob": finite(entry.logprob)}


def _probability(entry: pb.TokenLogprob | pb.TopLogprob) -> dict[str, Any]:
    return {**_token(entry), "prob": math.exp(entry.logprob)}


def _token(entry: pb.TokenLogprob | pb.TopLogprob) -> dict[str, Any]:
    return {"id": entry.token, "token": piece_text(entry.piece), "bytes": list(entry.piece)}


def piece_text(piece: bytes) -> str:
    """A token's bytes as text; halves of characters become U+FFFD."""
    return piece.decode(errors="replace")


def finite(logprob: float) -> float:
    """The logarithm of nothing is shown as the lowest float32, since JSON has no infinity."""
    return max(logprob, -FLOAT32_MAX)


def content_logprobs(entries: Iterable[pb.TokenLogprob], *, after_sampling: bool) -> dict[str, Any]:
    """The chat format's logprobs object."""
    return {"content": probabilities(entries, after_sampling=after_sampling), "refusal": None}
