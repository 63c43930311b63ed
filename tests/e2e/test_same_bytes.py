"""Same model, prompt, seed and parameters give the same bytes: over HTTP, of gateways that could hardly differ more."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from tests.e2e.serving import Serving, serving
from tests.models import smollm2

pytestmark = pytest.mark.timeout(900)

STORY = "Once there was a lighthouse keeper who counted every ship that passed. " * 4


class Choice(NamedTuple):
    text: str
    reason: str
    logprobs: list[Any]


def asking(**sampling: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": STORY, "max_tokens": 32, "logprobs": 2, "seed": 1, **sampling}


BODIES = [
    asking(temperature=0),
    asking(temperature=0, prompt="def main():"),
    asking(temperature=0, repeat_penalty=1.3, repeat_last_n=-1),
    asking(temperature=1.2),
    asking(temperature=1.2, seed=2, ignore_eos=True, prompt="🐎🐄🌵"),
    asking(temperature=0.8, seed=3, stop=["ship", " a", "."]),
    asking(mirostat=1, seed=4),
    asking(mirostat=2, mirostat_tau=3, seed=5),
    asking(xtc_probability=0.5, xtc_threshold=0.05, seed=6),
    asking(dry_multiplier=0.8, dry_penalty_last_n=-1, seed=7),
    asking(samplers=["top_k", "temperature", "adaptive_p"], adaptive_target=0.4, seed=8),
    asking(typical_p=0.7, top_n_sigma=1.5, dynatemp_range=0.5, seed=9),
    asking(logit_bias=[["keeper", 3], [28, False]], seed=10, echo=True),
    asking(temperature=1, seed=11, post_sampling_probs=True),
    asking(temperature=1.5, seed=20, n=3, prompt="The sea"),
]


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, Serving]]:
    """One that computes one request at a time, on one thread, and guesses nothing; and one whose cache is too small for
    all that it computes at once."""
    folder = tmp_path_factory.mktemp("bytes")
    model = ("-m", smollm2(), "--alias", "tiny", "--ctx-size", "512")
    plain = ("--threads", "1", "--parallel", "1", "--spec-type", "none", "--no-cache-prompt")
    busy = ("--threads", "2", "--parallel", "16", "--ubatch-size", "48", "--kv-store", folder / "store")
    with ExitStack() as stack:
        one = stack.enter_context(serving(folder / "one.log", *model, *plain))
        other = stack.enter_context(serving(folder / "other.log", *model, *busy))
        yield one, other


def ask(served: Serving, body: dict[str, Any]) -> list[Choice]:
    answer = served.http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return [
        Choice(choice["text"], choice["finish_reason"], choice["logprobs"]["content"])
        for choice in answer.json()["choices"]
    ]


def ask_streaming(served: Serving, body: dict[str, Any]) -> list[Choice]:
    choices = [Choice("", "", []) for _ in range(body.get("n", 1))]
    with served.http.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            for part in json.loads(line.removeprefix("data: "))["choices"]:
                said = choices[part["index"]]
                said.logprobs.extend((part["logprobs"] or {}).get("content", ()))
                choices[part["index"]] = Choice(
                    said.text + part["text"], said.reason or part["finish_reason"] or "", said.logprobs
                )
    return choices


def test_an_answer_is_the_same_alone_in_a_crowd_streamed_and_from_the_cache(gateways: tuple[Serving, Serving]) -> None:
    one, other = gateways
    alone = [ask(one, body) for body in BODIES]
    with ThreadPoolExecutor(len(BODIES)) as threads:
        assert list(threads.map(lambda body: ask_streaming(other, body), BODIES)) == alone
        assert list(threads.map(lambda body: ask(other, body), BODIES)) == alone


def test_each_choice_is_what_its_seed_gives_alone(gateways: tuple[Serving, Serving]) -> None:
    one, other = gateways
    body = asking(temperature=1.5, prompt="The sea", seed=20)
    assert ask(other, body | {"n": 3}) == [ask(one, body | {"seed": seed})[0] for seed in (20, 21, 22)]


def test_what_was_computed_before_is_reused_unless_the_server_was_told_not_to(
    gateways: tuple[Serving, Serving],
) -> None:
    reused = []
    for served in gateways:
        for _ in range(2):
            answer = served.http.post("/v1/completions", json=asking(max_tokens=1)).json()
        reused.append(answer["timings"]["cache_n"] > 0)
    assert reused == [False, True]
