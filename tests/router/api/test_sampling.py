"""From a body's fields to the proto: defaults, aliases, clamps, seeds, biases."""

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protos import inference_pb2 as pb
from router.api import samplers
from router.api.sampling import TABLE, generation_settings, parameters
from router.errors import InvalidRequest, NotSupported
from worker.sampling import breakers as worker_breakers
from worker.sampling import settings as worker_settings


def message(choice: int = 0, num_logprobs: int | None = None, **body: Any) -> pb.GenerateRequest:
    return parameters(body, num_logprobs, {}).request("id", pb.Prompt(), choice, return_prompt=False)


DEFAULTS: dict[str, Any] = {
    "temperature": 0.8, "dynatemp_range": 0, "dynatemp_exponent": 1, "top_k": 40, "top_p": 0.95, "min_p": 0.05,
    "typical_p": 1, "top_n_sigma": -1, "xtc_probability": 0, "xtc_threshold": 0.1, "repeat_penalty": 1,
    "repeat_last_n": 64, "presence_penalty": 0, "frequency_penalty": 0, "dry_multiplier": 0, "dry_base": 1.75,
    "dry_allowed_length": 2, "dry_penalty_last_n": 64, "mirostat": 0, "mirostat_tau": 5, "mirostat_eta": 0.1,
    "adaptive_target": -1, "adaptive_decay": 0.9, "min_keep": 0, "ignore_eos": False,
}  # fmt: skip


def test_an_empty_body_gives_llama_servers_defaults() -> None:
    asked = message()
    expected = pb.Sampling(**DEFAULTS)  # and no lists: those are the worker's own
    assert asked.sampling == expected
    assert (asked.max_tokens, asked.cache_prompt, list(asked.stop)) == (-1, True, [])
    assert not asked.logprobs.enabled and not asked.sampling.has_seed


def test_lists_that_are_left_out_are_the_workers_own() -> None:
    assert tuple(samplers.SAMPLERS) == worker_settings.SAMPLERS
    assert tuple(samplers.BREAKERS) == worker_breakers.DEFAULT_BREAKERS


def test_where_and_when_a_request_runs_is_carried() -> None:
    asked = message(id_slot=3, n_keep=-1, n_discard=7, priority=9)
    assert (asked.place, asked.num_kept, asked.num_discarded, asked.priority) == (3, -1, 7, 9)
    assert (message().place, message().priority) == (-1, 5)
    assert (message(t_max_predict_ms=250).max_predict_ms, message().max_predict_ms) == (250, 0)


def test_every_field_of_sampling_arrives() -> None:
    changed: dict[str, Any] = {
        name: not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else 0.5
        for name, value in DEFAULTS.items()
    } | {"adaptive_target": 0.25, "xtc_probability": 0.75, "dry_base": 2.5}
    more = {"samplers": ["xtc", "adaptive_p"], "dry_sequence_breakers": ["x"], "seed": 9}
    expected = pb.Sampling(
        **changed, samplers=pb.SamplerOrder(names=["xtc", "adaptive_p"]), dry_sequence_breakers=["x"],
        seed=9, has_seed=True,
    )  # fmt: skip
    assert message(**changed, **more).sampling == expected


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("kpt", ["top_k", "top_p", "temperature"]),
        ("", []),
        ([], []),
        (["top_k", "top_k"], ["top_k", "top_k"]),
        (["top-k", "nucleus", "typical", "temp"], ["top_k", "top_p", "typ_p", "temperature"]),
        (["adaptive-p"], ["adaptive_p"]),
    ],
)
def test_samplers_are_named_in_words_or_letters(given: Any, names: list[str]) -> None:
    sampling = message(samplers=given).sampling
    assert sampling.HasField("samplers")  # an order without any is not the worker's own
    assert list(sampling.samplers.names) == names


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("samplers", ["nothing"]),
        ("samplers", "kz"),
        ("samplers", 5),
        ("samplers", [1]),
        ("samplers", ["top_k"] * 65),
        ("samplers", "k" * 65),
        ("dry_sequence_breakers", []),
        ("dry_sequence_breakers", "x"),
        ("dry_sequence_breakers", [1]),
        ("dry_sequence_breakers", ["x" * 41]),
        ("dry_sequence_breakers", ["x"] * 65),
        ("dry_allowed_length", -1),
        ("dry_penalty_last_n", -2),
        ("repeat_last_n", -2),
        ("repeat_penalty", 0),
        ("stop", ["x"] * 65),
        ("min_keep", -1),
        ("adaptive_decay", 1),
        ("adaptive_decay", -0.5),
        ("temperature", 1e39),
        ("temperature", "1"),
        ("top_k", 2**31),
        ("top_k", 1.5),
        ("seed", 2**63),
        ("ignore_eos", 1),
        ("post_sampling_probs", 1),
        ("logit_bias", [[1, True]]),
        ("logit_bias", [[-1, 1]]),
        ("logit_bias", [[1]]),
        ("logit_bias", "x"),
        ("logit_bias", [[1, 2]] * 4097),
    ],
)
def test_bad_values_are_refused_by_name(field: str, bad: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"'{field}"):
        message(**{field: bad})


@pytest.mark.parametrize(("given", "carried"), [(0.5, 1.75), (-3, 1.75), (1, 1), (3, 3)])
def test_a_base_below_1_means_the_default(given: float, carried: float) -> None:
    assert message(dry_base=given).sampling.dry_base == carried


def test_the_servers_defaults_stand_in_for_what_a_body_lacks() -> None:
    defaults = {"temperature": 0.25, "typical_p": 0.5, "samplers": ["top_k"]}
    body = {"typ_p": 0.75, "temperature": None}
    sampling = parameters(body, None, defaults).request("id", pb.Prompt(), 0, return_prompt=False).sampling
    assert (sampling.temperature, sampling.typical_p, list(sampling.samplers.names)) == (0.25, 0.75, ["top_k"])


def test_the_servers_length_stands_in_for_every_name_of_it() -> None:
    defaults = {"n_predict": 256, "n_keep": 7, "cache_prompt": False}

    def asked(**body: Any) -> pb.GenerateRequest:
        return parameters(body, None, defaults).request("id", pb.Prompt(), 0, return_prompt=False)

    silent = asked()
    assert (silent.max_tokens, silent.num_kept, silent.cache_prompt) == (256, 7, False)
    assert asked(max_tokens=3).max_tokens == asked(max_completion_tokens=3).max_tokens == 3
    assert (asked(n_keep=0).num_kept, asked(cache_prompt=True).cache_prompt) == (0, True)


def test_the_servers_stops_stand_in_where_a_body_has_none() -> None:
    for body, stop in (({}, ["User:"]), ({"stop": None}, ["User:"]), ({"stop": []}, ["User:"]), ({"stop": "x"}, ["x"])):
        assert parameters(body, None, {"stop": ["User:"]})["stop"] == stop


def test_what_a_body_says_of_guesses_is_carried_and_nothing_else() -> None:
    assert not message().HasField("guessing")
    assert message(**{"speculative.n_max": 0}).guessing == pb.Guessing(most=0)
    given = {"speculative.n_max": 9, "speculative.n_min": 2, "speculative.p_min": 0.5}
    assert message(**given).guessing == pb.Guessing(most=9, fewest=2, least_probability=0.5)
    for name, value in (("n_max", -1), ("n_min", 1.5), ("p_min", 2)):
        with pytest.raises(InvalidRequest, match=rf"^Field 'speculative\.{name}'"):
            message(**{f"speculative.{name}": value})


def test_a_bias_may_name_a_text() -> None:
    biases = [pb.LogitBias(text="Paris", bias=-1), pb.LogitBias(token=5, bias=-math.inf)]
    assert list(message(logit_bias={"Paris": -1, "5": False}).sampling.logit_bias) == biases
    assert list(message(logit_bias=[["Paris", -1], [5, False]]).sampling.logit_bias) == biases
    assert message(logit_bias=[["5", 1]]).sampling.logit_bias[0].text == "5"


@pytest.mark.parametrize("bias", [{"5": -1.5, "6": False}, {"5": -1.5, "6": False, "5": -1.5}])  # noqa: F601
def test_biases_may_be_an_object(bias: dict[str, float]) -> None:
    assert list(message(logit_bias=bias).sampling.logit_bias) == list(
        message(logit_bias=[[5, -1.5], [6, False]]).sampling.logit_bias
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6, "max_tokens": 5}, 6),
        ({"n_predict": 7, "max_completion_tokens": 6, "max_tokens": 5}, 7),
        ({"n_predict": None, "max_tokens": 5}, 5),
        ({"max_tokens": 0}, 1),
        ({"n_predict": 0, "max_tokens": 5}, 1),
        ({"max_tokens": -1}, -1),
        ({"max_tokens": 2**31 - 1}, 2**31 - 1),
    ],
)
def test_the_first_name_of_a_limit_wins(body: dict[str, Any], expected: int) -> None:
    assert message(**body).max_tokens == expected


@pytest.mark.parametrize("priority", [10, -1, "x", 1.5, True])
def test_a_priority_out_of_range_is_refused_and_not_changed(priority: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^Field 'priority': .*\(the highest goes first\)$"):
        message(priority=priority)
    with pytest.raises(InvalidRequest, match="between 0 <= value <= 9, but got 10"):
        message(priority=10)


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
    after = message(num_logprobs=5, post_sampling_probs=True).logprobs
    assert after == pb.Logprobs(enabled=True, num_top=5, after_sampling=True)


def test_usage_in_streams_is_asked_for_in_its_options() -> None:
    assert parameters({"stream_options": {"include_usage": True}}, None, {}).include_usage
    assert not parameters({"stream_options": {}}, None, {}).include_usage


def test_names_are_unique() -> None:
    names = [name for field in TABLE for name in field.names]
    assert len(names) == len(set(names))


def test_settings_show_floats_as_32_bits() -> None:
    shown = generation_settings(parameters({"temperature": 0.8, "seed": 5}, 3, {}))
    assert shown["temperature"] == 0.800000011920929
    assert (shown["seed"], shown["n_probs"]) == (5, 3)
    assert generation_settings(parameters({}, None, {}))["seed"] == 4294967295
    assert "stop" not in generation_settings(parameters({}, None, {}), brief=True)


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
        asked = parameters(body, None, {})
        message = asked.request("id", pb.Prompt(), 0, return_prompt=False)
        generation_settings(asked)
    except (InvalidRequest, NotSupported):
        return
    assert math.isfinite(message.sampling.temperature)
    assert 0 <= message.sampling.top_p <= 1
    assert all(bias.token >= 0 and not math.isnan(bias.bias) for bias in message.sampling.logit_bias)
