"""Recorded greedy answers of the peer, how to ask a server for the same, and how the two are compared.

record_greedy.py writes them, test_greedy.py holds our server against them. Invariant: `compare` knows no server; it
tells differences that rounding explains, by the peer's own margin, from those that it does not.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx

NEAR_TIE = 0.1  # difference of natural logarithms
# Rounding an activation to int8 turns a difference in the last bit into a different code, and layers multiply it: the
# margins of the peer with and without its flash attention differ by 0.16 (root mean square), as do ours from either.
# A difference of four times that is an error; between the two thresholds only the number of cases tells.
DRIFT = 0.6
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
    """One decision of the peer: its choice, and the next candidates, likeliest first."""

    token: int
    logprob: float
    others: tuple[tuple[int, float], ...]

    @property
    def margin(self) -> float:
        return self.margin_over(self.others[0][0])

    def margin_over(self, token: int | None) -> float:
        """How much likelier the choice is than that token; infinite if that is not among the candidates."""
        return next((self.logprob - logprob for other, logprob in self.others if other == token), math.inf)


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
    """`num_equal` steps agree; then comes a token that the peer found less likely by `margin`, if there is a difference
    that rounding can explain, or a `fault`."""

    num_equal: int
    margin: float = 0.0
    fault: str = ""

    @property
    def drifted(self) -> bool:
        """More than a near tie, less than an error."""
        return self.margin >= NEAR_TIE


def compare(case: Case, answer: Answer, end_tokens: frozenset[int]) -> Verdict:
    """Token by token up to the first difference; behind it the two texts are different texts."""
    if answer.num_prompt != case.num_prompt:
        return Verdict(0, fault=f"{answer.num_prompt} prompt tokens, not {case.num_prompt}")
    ours = _with_end(answer, end_tokens)
    for i, step in enumerate(case.steps):
        token = ours[i] if i < len(ours) else None
        if token == step.token:
            continue
        margin = step.margin_over(token)
        return Verdict(i, margin) if margin < DRIFT else Verdict(i, fault=_difference(i, token, step))
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
    return f"step {i}: {got} where the peer chose {step.token}, likelier by {step.margin_over(token):.3f}"


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
    asked = {"max_tokens": NUM_PREDICT, "logprobs": True, "top_logprobs": NUM_TOP}
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
        "steps": [_step_to(step) for step in case.steps],
    }


def _step_to(step: Step) -> list[float]:
    """Flat: the choice and its logarithm, then those of the candidates."""
    candidates = ((step.token, step.logprob), *step.others)
    return [value for token, logprob in candidates for value in (token, round(logprob, 4))]


def _step_from(values: Sequence[float]) -> Step:
    first, *others = zip(map(int, values[::2]), values[1::2], strict=True)
    return Step(*first, tuple(others))


def _case_from(item: Mapping[str, Any]) -> Case:
    return Case(
        name=item["name"],
        endpoint=Endpoint(item["endpoint"]),
        body=item["body"],
        rendered=item["rendered"],
        num_prompt=item["num_prompt"],
        steps=tuple(_step_from(values) for values in item["steps"]),
        ended=item["ended"],
        content=item["content"],
    )
