"""F25: numbers at and beyond the ends of their ranges, over HTTP, to a real model: refused by name, or served."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.serving import Serving, serving
from tests.models import smollm2

pytestmark = pytest.mark.timeout(600)

VOCAB_SIZE = 49152
HUGE = 10**9
REFUSED: list[dict[str, Any]] = [
    *({"max_tokens": value} for value in (-2, 2**31, 2**63, 1.5, "3", True)),
    *({"n": value} for value in (0, -1, 129)),
    *({"temperature": value} for value in (1e39, "hot", [1])),
    *({"top_k": value} for value in (2**31, 2**63, -(2**31) - 1)),
    *({"logit_bias": [[token, 1]]} for token in (-1, VOCAB_SIZE, 2**31 - 1, 2**31)),
    *({"logit_bias": {str(token): 1}} for token in (VOCAB_SIZE, 2**31, 10**14)),
    *({"logit_bias": [[5, bias]]} for bias in (1e39, 1e10, "x", True, None)),
    {"logit_bias": [[5]]},
    {"stop": [f"end {number}" for number in range(1000)]},
    {"stop": [1]},
    *({"prompt": prompt} for prompt in ([], [-1], [VOCAB_SIZE], [1, 2**31], [1.5], [True], [[1], [VOCAB_SIZE]])),
    *({"seed": value} for value in (2**63, 2**64 - 1, 2**64, -(2**63) - 1, 1.5, "7")),
    *({"n_discard": value} for value in (-5, 2**31)),
    *({"n_keep": value} for value in (-2, 2**31)),
    *({"repeat_last_n": value} for value in (-2, 2**31)),
    *({"dry_penalty_last_n": value, "dry_multiplier": 1} for value in (-2, 2**31)),
    {"dry_allowed_length": -1, "dry_multiplier": 1},
    {"dry_sequence_breakers": [], "dry_multiplier": 1},
    *({"repeat_penalty": value} for value in (0, -1, 1e10)),
    *({"min_keep": value} for value in (-1, 2**31)),
    *({"n_probs": value} for value in (-1, 129, 2**31)),
    *({"id_slot": value} for value in (-2, 2**31)),
    {"adaptive_decay": 1},
    {"samplers": ["top_k"] * 65},
]
NOT_JSON = ['{"prompt":"a","temperature":NaN}', '{"prompt":"a","temperature":1e999}', '{"prompt":"a","seed":Infinity}']
SERVED: list[dict[str, Any]] = [
    *({"max_tokens": value} for value in (0, 2.0)),
    *({"max_tokens": value, "stop": ["e"]} for value in (-1, HUGE, 2**31 - 1)),
    *({"temperature": value} for value in (-1, 0, 1e-30, HUGE)),
    *({"top_k": value} for value in (2**31 - 1, -(2**31), 0, VOCAB_SIZE, VOCAB_SIZE + 1)),
    *({"logit_bias": [[token, bias]]} for token in (0, VOCAB_SIZE - 1) for bias in (HUGE, -HUGE, False)),
    *({"stop": value} for value in ("", [], [""], ["x" * 10000], [f"end {number}" for number in range(64)])),
    *({"prompt": prompt} for prompt in ("", [[]], [0, VOCAB_SIZE - 1])),
    *({"seed": value} for value in (-(2**63), -1, 0, 2**32 - 1, 2**32, 2**63 - 1)),
    *({"n_discard": value, "n_keep": value} for value in (0, 2**31 - 1)),
    *({"repeat_last_n": value, "repeat_penalty": 1e9} for value in (-1, 0, 2**31 - 1)),
    *({"dry_penalty_last_n": value, "dry_multiplier": HUGE, "dry_base": HUGE} for value in (-1, 0, 2**31 - 1)),
    {"repeat_penalty": 1e-6, "presence_penalty": HUGE, "frequency_penalty": -HUGE},
    {"min_keep": 2**31 - 1, "top_p": 0, "min_p": 2, "typical_p": 0, "top_n_sigma": 1e-9},
    *({"mirostat": version, "mirostat_tau": HUGE, "mirostat_eta": -HUGE} for version in (-1, 1, 2, 3)),
    {"dynatemp_range": HUGE, "dynatemp_exponent": -HUGE},
    {"xtc_probability": HUGE, "xtc_threshold": -HUGE},
    *({"id_slot": value} for value in (2, 2**31 - 1)),
    {"samplers": ["adaptive_p"], "adaptive_target": HUGE, "adaptive_decay": 0.99},
    {"samplers": [], "n_probs": 128, "post_sampling_probs": True},
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    arguments = ("-m", smollm2(), "--ctx-size", "128", "-np", "2", "--context-shift")
    with serving(tmp_path_factory.mktemp("extremes") / "log", *arguments) as running:
        golden = answer_to(running, {"temperature": 0})
        yield running
        assert answer_to(running, {"temperature": 0}) == golden


def answer_to(served: Serving, body: dict[str, Any]) -> str:
    response = served.http.post("/completion", json={"prompt": "The sea", "max_tokens": 3, "temperature": 1} | body)
    assert response.status_code == 200, response.text
    return str(response.json()["content"])


def shortened(body: dict[str, Any]) -> str:
    return str(body)[:60]


@pytest.mark.parametrize("body", REFUSED, ids=shortened)
def test_what_is_out_of_range_is_refused_by_its_name(served: Serving, body: dict[str, Any]) -> None:
    response = served.http.post("/completion", json={"prompt": "The sea", "max_tokens": 3} | body)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert next(iter(body)) in error["message"]


@pytest.mark.parametrize("body", NOT_JSON)
def test_what_is_no_number_of_json_is_refused(served: Serving, body: str) -> None:
    response = served.http.post("/completion", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("body", SERVED, ids=shortened)
def test_what_is_just_in_range_is_served(served: Serving, body: dict[str, Any]) -> None:
    answer_to(served, body)
