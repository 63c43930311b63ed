"""What a client makes of an answer, whole or streamed, in a form in which two of them can be compared."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Answer:
    """Everything that must not depend on what happened to workers on the way."""

    texts: dict[int, str] = field(default_factory=dict)  # by choice
    reasons: dict[int, str] = field(default_factory=dict)
    logprobs: dict[int, list[Any]] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    done: bool = False

    def add(self, event: dict[str, Any]) -> None:
        """A chunk of /v1/chat/completions, or its whole answer."""
        self.error = event.get("error", self.error)
        if event.get("usage"):
            self.usage = {name: event["usage"][name] for name in ("prompt_tokens", "completion_tokens")}
        for choice in event.get("choices", ()):
            index, said = choice["index"], choice.get("delta") or choice.get("message") or {}
            self.texts[index] = self.texts.get(index, "") + (said.get("content") or "")
            if choice.get("logprobs"):
                self.logprobs.setdefault(index, []).extend(choice["logprobs"]["content"])
            if choice["finish_reason"]:
                self.reasons[index] = choice["finish_reason"]


async def events(answer: httpx.Response) -> AsyncIterator[str]:
    """The data of each server-sent event."""
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


async def chat(client: httpx.AsyncClient, body: dict[str, Any], heard: Callable[[], None] = lambda: None) -> Answer:
    """Asks, and calls `heard` with each event of a stream."""
    answer = Answer()
    if not body.get("stream"):
        answer.add((await client.post("/v1/chat/completions", json=body)).json())
        answer.done = answer.error is None
        return answer
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            answer.add(json.loads(await response.aread()))
            return answer
        async for data in events(response):
            heard()
            if data == "[DONE]":
                answer.done = True
            else:
                answer.add(json.loads(data))
    return answer
