"""From a body's fields to the proto: defaults, aliases, clamps, seeds, biases."""

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protos import inference_pb2 as pb
from router.api.sampling import TABLE, generation_settings, parameters
from router.errors import InvalidRequest, NotSupported


def message(choice: int = 0, num_logprobs: int | None = None, **body: Any) -> pb.GenerateRequest:
    return parameters(body, num_logprobs).request("id", pb.Prompt(), choice, return_prompt=False)


def test_an_empty_body_gives_llama_servers_defaults() -> None:
    asked = message()
    assert asked.sampling == pb.Sampling(
        temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, repeat_penalty=1.0, repeat_last_n=64
    )
    assert (asked.max_tokens, asked.cache_prompt, list(asked.stop)) == (-1, True, [])
    assert not asked.logprobs.enabled and not asked.sampling.has_seed


def test_where_and_when_a_request_runs_is_carried() -> None:
    asked = message(id_slot=3, n_keep=-1, n_discard=7, priority=12)
    assert (asked.place, asked.num_kept, asked.num_discarded, asked.priority) == (3, -1, 7, 9)
    assert (message().place, message().priority) == (-1, 5)


def test_every_carried_field_arrives() -> None:
    asked = message(
        temperature=0.25,
        top_k=7,
        top_p=0.5,
        min_p=0.125,
        repeat_penalty=1.5,
        presence_penalty=-0.5,
        frequency_penalty=0.75,
        repeat_last_n=-1,
        ignore_eos=True,
        min_keep=3,
        seed=9,
        logit_bias=[[5, -1.5], [6, False]],
    )
    assert asked.sampling == pb.Sampling(
        temperature=0.25,
        top_k=7,
        top_p=0.5,
        min_p=0.125,
        repeat_penalty=1.5,
        presence_penalty=-0.5,
        frequency_penalty=0.75,
        repeat_last_n=-1,
        ignore_eos=True,
        min_keep=3,
        seed=9,
        has_seed=True,
        logit_bias=[pb.LogitBias(token=5, bias=-1.5), pb.LogitBias(token=6, bias=-math.inf)],
    )


@pytest.mark.parametrize("bias", [{"5": -1.5, "6": False}, {"5": -1.5, "6": False, "5": -1.5}])  # noqa: F601
def test_biases_may_be_an_object(bias: dict[str, float]) -> None:
    assert list(message(logit_bias=bias).sampling.logit_bias) == list(
        message(logit_bias=[[5, -1.5], ["6", False]]).sampling.logit_bias
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6, "max_tokens": 5}, 6),
        ({"n_predict": 7, "max_completion_tokens": 6, "max_tokens": 5}, 7),
        ({"n_predict": None, "max_tokens": 5}, 5),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": -1}, -1),
        ({"max_tokens": 2**31 - 1}, 2**31 - 1),
    ],
)
def test_the_first_name_of_a_limit_wins(body: dict[str, Any], expected: int) -> None:
    assert message(**body).max_tokens == expected


def test_a_bad_value_is_refused_even_under_a_name_that_loses() -> None:
    with pytest.raises(InvalidRequest, match="'max_tokens'"):
        message(n_predict=7, max_tokens="x")


@pytest.mark.parametrize(("value", "carried"), [(2, 1.0), (-1, 0.0), (0.5, 0.5), (1e30, 1.0)])
def test_probabilities_are_clamped(value: float, carried: float) -> None:
    assert message(top_p=value).sampling.top_p == carried
    assert message(min_p=value).sampling.min_p == carried


@pytest.mark.parametrize(
    ("seed", "carried"),
    [(0, 0), (42, 42), (2**32 - 2, 2**32 - 2), (2**32 + 5, 5), (-2, 2**32 - 2), (-1, None), (2**32 - 1, None)],
)
def test_seeds_are_folded_into_32_bits_and_minus_one_means_none(seed: int, carried: int | None) -> None:
    sampling = message(seed=seed).sampling
    assert (sampling.seed if sampling.has_seed else None) == carried


def test_choices_of_one_request_have_seeds_of_their_own() -> None:
    assert [message(choice, seed=2**32 - 2).sampling.seed for choice in range(3)] == [2**32 - 2, 2**32 - 1, 0]
    assert not message(1).sampling.has_seed


@pytest.mark.parametrize(("stop", "carried"), [("a", ["a"]), (["a", "", "b"], ["a", "b"]), ("", []), ([], [])])
def test_stops_are_a_string_or_strings_and_empty_ones_are_left_out(stop: Any, carried: list[str]) -> None:
    assert list(message(stop=stop).stop) == carried


def test_log_probabilities_are_asked_for_with_their_number() -> None:
    assert message(num_logprobs=0).logprobs == pb.Logprobs(enabled=True, num_top=0)
    assert message(num_logprobs=5).logprobs == pb.Logprobs(enabled=True, num_top=5)


def test_usage_in_streams_is_asked_for_in_its_options() -> None:
    assert parameters({"stream_options": {"include_usage": True}}, None).include_usage
    assert not parameters({"stream_options": {}}, None).include_usage


def test_names_are_unique() -> None:
    names = [name for field in TABLE for name in field.names]
    assert len(names) == len(set(names))


def test_settings_show_floats_as_32_bits() -> None:
    shown = generation_settings(parameters({"temperature": 0.8, "seed": 5}, 3))
    assert shown["temperature"] == 0.800000011920929
    assert (shown["seed"], shown["n_probs"]) == (5, 3)
    assert generation_settings(parameters({}, None))["seed"] == 4294967295
    assert "stop" not in generation_settings(parameters({}, None), brief=True)


TEXT = st.sampled_from(["", "a", "5", "-1", "é\x00", "9" * 10, "9" * 5000])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([name for field in TABLE for name in field.names]), JSON, max_size=6))
def test_any_body_becomes_a_message_or_a_refusal(body: dict[str, Any]) -> None:
    try:
        asked = parameters(body, None)
        message = asked.request("id", pb.Prompt(), 0, return_prompt=False)
        generation_settings(asked)
    except (InvalidRequest, NotSupported):
        return
    assert math.isfinite(message.sampling.temperature)
    assert 0 <= message.sampling.top_p <= 1
    assert all(bias.token >= 0 and not math.isnan(bias.bias) for bias in message.sampling.logit_bias)
