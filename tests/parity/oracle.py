"""Recorded greedy answers of the peer, how to ask a server for the same, and how the two are compared.

record_greedy.py writes them, test_greedy.py holds our server against them. Invariant: `compare` knows no server; it
accepts a different token only where the peer itself was nearly undecided, and then only the peer's second choice.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx

NEAR_TIE = 0.1  # difference of natural logarithms
NUM_PREDICT = 48
NUM_TOP = 5
_CUT = "\ufffd"  # what a server may send for a character that the length limit cut in two

# llama-server's own defaults would do, but a comparison should not depend on anybody's defaults.
GREEDY: Mapping[str, Any] = {
    "temperature": 0.0,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "cache_prompt": False,
    "stream": False,
}


class Endpoint(StrEnum):
    COMPLETION = "/completion"
    CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Step:
    """One decision of the peer: its choice, and what came second."""

    token: int
    logprob: float
    second: int
    second_logprob: float

    @property
    def margin(self) -> float:
        return self.logprob - self.second_logprob


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    endpoint: Endpoint
    body: Mapping[str, Any]  # `prompt` or `messages`, without sampling
    rendered: str  # the prompt as text; for a conversation, after the chat template
    num_prompt: int
    steps: tuple[Step, ...]
    ended: bool  # the last step is the end of the sequence, not the length limit
    content: str


@dataclass(frozen=True, slots=True)
class Sampled:
    """A run with temperature and seed. The random stream is the peer's own, so ours need not follow it."""

    name: str
    body: Mapping[str, Any]
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said to a case."""

    tokens: tuple[int, ...]  # with the token that ended the sequence, if the server returned it
    ended: bool
    num_prompt: int
    content: str


@dataclass(frozen=True, slots=True)
class Oracle:
    peer: str
    model_size: int
    end_tokens: frozenset[int]
    cases: tuple[Case, ...]
    sampled: tuple[Sampled, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`num_equal` steps agree. `fault` says what is wrong, and is empty if nothing is."""

    num_equal: int
    tied: bool = False
    fault: str = ""


def compare(case: Case, answer: Answer, end_tokens: frozenset[int]) -> Verdict:
    """Token by token up to the first near tie; behind it the two texts are different texts."""
    if answer.num_prompt != case.num_prompt:
        return Verdict(0, fault=f"{answer.num_prompt} prompt tokens, not {case.num_prompt}")
    ours = _with_end(answer, end_tokens)
    for i, step in enumerate(case.steps):
        token = ours[i] if i < len(ours) else None
        if token == step.token or (token in end_tokens and step.token in end_tokens):
            continue
        if step.margin < NEAR_TIE and token == step.second:
            return Verdict(i, tied=True)
        return Verdict(i, fault=_difference(i, token, step))
    if len(ours) > len(case.steps):
        return Verdict(len(case.steps), fault=f"goes on after {len(case.steps)} tokens")
    if answer.content.rstrip(_CUT) != case.content.rstrip(_CUT):
        return Verdict(len(case.steps), fault=f"same tokens, other text: {answer.content!r}, not {case.content!r}")
    return Verdict(len(case.steps))


def _with_end(answer: Answer, end_tokens: frozenset[int]) -> tuple[int, ...]:
    """Servers differ in whether the end token is listed; the reason for stopping says that it was sampled."""
    listed = bool(answer.tokens) and answer.tokens[-1] in end_tokens
    return answer.tokens if listed or not answer.ended else (*answer.tokens, min(end_tokens))


def _difference(i: int, token: int | None, step: Step) -> str:
    got = "nothing" if token is None else f"token {token}"
    rank = ", the second choice," if token == step.second else ""
    return f"step {i}: {got}{rank} where the peer chose {step.token} by a margin of {step.margin:.3f}"


# ---- asking a server --------------------------------------------------------------------------


def ask(client: httpx.Client, case: Case) -> Answer:
    if case.endpoint is Endpoint.CHAT:
        return _ask_chat(client, case.body)
    reply = post(client, Endpoint.COMPLETION, completion_body(case.body["prompt"]))
    return Answer(
        tokens=tuple(reply["tokens"]),
        ended=reply["stop_type"] == "eos",
        num_prompt=reply["tokens_evaluated"],
        content=reply["content"],
    )


def _ask_chat(client: httpx.Client, body: Mapping[str, Any]) -> Answer:
    asked = {"max_tokens": NUM_PREDICT, "logprobs": True, "top_logprobs": NUM_TOP, "model": "any"}
    reply = post(client, Endpoint.CHAT, {**GREEDY, **asked, **body})
    choice = reply["choices"][0]
    return Answer(
        tokens=tuple(item["id"] for item in choice["logprobs"]["content"]),
        ended=choice["finish_reason"] == "stop",
        num_prompt=reply["usage"]["prompt_tokens"],
        content=choice["message"]["content"],
    )


def completion_body(prompt: str | Sequence[int]) -> dict[str, Any]:
    return {**GREEDY, "prompt": prompt, "n_predict": NUM_PREDICT, "n_probs": NUM_TOP, "return_tokens": True}


def post(client: httpx.Client, path: str, body: Mapping[str, Any]) -> Any:
    response = client.post(path, json=dict(body))
    if response.status_code != 200:
        raise RuntimeError(f"{path}: {response.status_code} {response.text}")
    return response.json()


# ---- the file ---------------------------------------------------------------------------------


def load(path: Path) -> Oracle:
    raw = json.loads(path.read_text("utf-8"))
    return Oracle(
        peer=raw["peer"],
        model_size=raw["model_size"],
        end_tokens=frozenset(raw["end_tokens"]),
        cases=tuple(_case_from(item) for item in raw["cases"]),
        sampled=tuple(Sampled(s["name"], s["body"], tuple(s["tokens"])) for s in raw["sampled"]),
    )


def save(oracle: Oracle, path: Path) -> None:
    """One case a line, so that a change of one case is a change of one line."""
    head = {"peer": oracle.peer, "model_size": oracle.model_size, "end_tokens": sorted(oracle.end_tokens)}
    cases = ",\n".join(_line(_case_to(case)) for case in oracle.cases)
    sampled = ",\n".join(_line({"name": s.name, "body": s.body, "tokens": s.tokens}) for s in oracle.sampled)
    path.write_text(f'{_line(head)[:-1]},\n"cases":[\n{cases}\n],\n"sampled":[\n{sampled}\n]}}\n', "utf-8")


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _case_to(case: Case) -> dict[str, Any]:
    return {
        "name": case.name,
        "endpoint": case.endpoint.value,
        "body": case.body,
        "rendered": case.rendered,
        "num_prompt": case.num_prompt,
        "ended": case.ended,
        "content": case.content,
        "steps": [[s.token, round(s.logprob, 4), s.second, round(s.second_logprob, 4)] for s in case.steps],
    }


def _case_from(item: Mapping[str, Any]) -> Case:
    return Case(
        name=item["name"],
        endpoint=Endpoint(item["endpoint"]),
        body=item["body"],
        rendered=item["rendered"],
        num_prompt=item["num_prompt"],
        steps=tuple(Step(*step) for step in item["steps"]),
        ended=item["ended"],
        content=item["content"],
    )
