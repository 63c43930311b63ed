"""Samplers beside the peer's: the same seed draws the same tokens from the same candidates, and each sampler alone
leaves the same candidates with the same probabilities, as far as rounding of the logits allows."""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.e2e.serving import Serving, serving
from tests.models import smollm2
from tests.parity.record_sampling import ALONE, RECORD, body, steps
from worker.sampler import Sampler, SamplerState
from worker.sampling.settings import Sampling

RECORDED: dict[str, Any] = json.loads(RECORD.read_text("utf-8"))
_PROMPT = "The quick brown fox jumps over the lazy dog, and then it sleeps until noon."
DRAWS_ALWAYS = ("default", "few_candidates", "xtc")  # the others draw only where there is a choice
FARTHEST = 0.06  # total variation between two distributions; logits differ by as much as they do in test_greedy.py


def distribution(flat: list[float]) -> dict[int, float]:
    return dict(zip(map(int, flat[::2]), flat[1::2], strict=True))


@pytest.mark.parametrize("name", RECORDED["drawn"])
def test_a_seed_draws_the_peers_tokens_from_the_peers_candidates(name: str) -> None:
    case, seed = name.split()
    sampler, state = Sampler(100), SamplerState(Sampling(int(seed), samplers=()))
    for token, flat in RECORDED["drawn"][name]:
        candidates = distribution(flat)
        if len(candidates) == 1 and case not in DRAWS_ALWAYS:
            continue
        logits = np.full(100, -math.inf, np.float32)
        logits[: len(candidates)] = np.log(list(candidates.values()))
        place = sampler.sample(logits, np.zeros(0, np.int32), state)
        assert list(candidates)[place] == token


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("parity") / "serve.log", "-m", smollm2()) as served:
        yield served


def test_prompt_tokens_are_as_likely_as_when_they_are_the_answer(server: Serving) -> None:
    """In chunks of several rows of logits, and one by one."""
    prompt = server.http.post("/tokenize", json={"content": _PROMPT}).json()["tokens"]
    asked = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 3}
    answer = server.http.post("/v1/completions", json={**asked, "echo": True}).json()["choices"][0]["logprobs"]
    assert answer["token_logprobs"][0] is None and len(answer["tokens"]) == len(prompt) + 1
    for place in (1, 5, 8, 9, len(prompt) - 1):
        forced = {**asked, "prompt": prompt[:place], "logit_bias": [[prompt[place], 1e6]]}
        alone = server.http.post("/v1/completions", json=forced).json()["choices"][0]["logprobs"]
        assert alone["content"][0] == answer["content"][place - 1]


@pytest.mark.parametrize("name", ALONE)
def test_each_sampler_leaves_what_the_peers_leaves(server: Serving, name: str) -> None:
    expected = distribution(RECORDED["alone"][name])
    found = distribution(steps(server.http, body(*ALONE[name], 1, 1))[0][1])
    difference = sum(abs(found.get(token, 0) - expected.get(token, 0)) for token in found.keys() | expected.keys()) / 2
    assert difference < FARTHEST, (found, expected)
