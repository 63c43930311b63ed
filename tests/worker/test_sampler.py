import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.candidates import GROUP, exp_sum, largest, select_top, survey
from worker.errors import InvalidRequest
from worker.mt19937 import STATE_SIZE, draw, start
from worker.sampler import BrokenLogits, Sampler, SamplerState, Sampling

NO_TOKENS = np.zeros(0, np.int32)
VOCAB = 1500


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(VOCAB)


def random_logits(seed=0, size=VOCAB, scale=3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, size).astype(np.float32)


def naive_candidates(logits, history, s: Sampling, eog=()) -> list[tuple[int, np.float32]]:
    """llama-server's chain without its temperature, step by step: (token, logit) in its candidates' order."""
    f32, logits = np.float32, [np.float32(x) for x in logits]
    for token, bias in (*s.logit_bias, *[(token, -math.inf) for token in eog if s.ignore_eos]):
        logits[token] = logits[token] + f32(bias)
    window = (
        list(history) if s.repeat_last_n < 0 else list(history)[len(history) - min(s.repeat_last_n, len(history)) :]
    )
    for token in set(window):
        penalised = (
            logits[token] * f32(s.repeat_penalty) if logits[token] <= 0 else logits[token] / f32(s.repeat_penalty)
        )
        logits[token] = penalised - (f32(window.count(token)) * f32(s.frequency_penalty) + f32(s.presence_penalty))
    found, is_sorted = list(enumerate(logits)), False
    if s.top_k > 0:
        found, is_sorted = sorted(found, key=lambda c: -c[1])[: s.top_k], True
    if s.top_p < 1:
        found, is_sorted = sorted(found, key=lambda c: -c[1]), True
        weights = [math.exp(float(logit) - float(found[0][1])) for _, logit in found]
        mass, kept = 0.0, 0
        while kept < len(found) and (mass < s.top_p * sum(weights) or kept < s.min_keep):
            mass += weights[kept]
            kept += 1
        found = found[: max(kept, 1)]
    if s.min_p > 0:
        lowest = max(logit for _, logit in found) + f32(math.log(s.min_p))
        above = [c for c in found if c[1] >= lowest]
        if len(above) < s.min_keep or is_sorted:
            found = sorted(found, key=lambda c: -c[1])
            above = found[: max(len(above), min(s.min_keep, len(found)))]
        found = above
    return found


def naive_choice(logits, history, s: Sampling, uniform: float, eog=()) -> int:
    found = naive_candidates(logits, history, s, eog)
    if s.temperature <= 0:
        return max(found, key=lambda c: (c[1], -c[0]))[0]
    scaled = [np.float32(logit / np.float32(s.temperature)) for _, logit in found]
    weights = [math.exp(float(x - max(scaled))) for x in scaled]
    reached = np.cumsum(weights)
    return found[min(int(np.searchsorted(reached, reached[-1] * uniform)), len(found) - 1)][0]


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31, 2**32 - 1])
def test_the_generator_is_the_mersenne_twister_of_every_language(seed):
    state = np.empty(STATE_SIZE, np.uint32)
    start(state, seed, 0)
    words = np.random.RandomState(seed).randint(0, 2**32, 2000, np.uint64).reshape(-1, 2)
    for low, high in words.tolist():
        assert draw(state) == (float(low) + float(high) * 2.0**32) / 2.0**64


def test_seed_42_draws_what_libstdcxx_draws():
    state = np.empty(STATE_SIZE, np.uint32)
    start(state, 42, 0)
    assert [draw(state), draw(state)] == [0.79654298428784598, 0.18343478789336848]


@pytest.mark.parametrize("num_draws", [0, 1, 311, 312, 313, 5000])
def test_a_generator_can_be_started_after_some_draws(num_draws):
    first, second = np.empty(STATE_SIZE, np.uint32), np.empty(STATE_SIZE, np.uint32)
    start(first, 7, 0)
    for _ in range(num_draws):
        draw(first)
    start(second, 7, num_draws)
    assert [draw(first) for _ in range(5)] == [draw(second) for _ in range(5)]


SETTINGS = [
    {},
    {"temperature": 0},
    {"temperature": 0.1},
    {"temperature": 3.0},
    {"top_k": 1},
    {"top_k": 5, "top_p": 1.0, "min_p": 0.0},
    {"top_k": 1400},
    {"top_k": 10**6, "top_p": 0.999, "min_p": 0.0},
    {"top_k": 0},
    {"top_k": 0, "top_p": 0.9999, "min_p": 0.0},
    {"top_k": 0, "top_p": 1.0},
    {"top_k": 0, "top_p": 1.0, "min_p": 0.9, "min_keep": 30},
    {"top_k": 0, "top_p": 1.0, "min_p": 0.0},
    {"top_p": 0.0},
    {"top_p": 0.01, "min_keep": 7, "min_p": 0.99},
    {"repeat_penalty": 1.3},
    {"repeat_penalty": 0.7, "repeat_last_n": 5},
    {"presence_penalty": 1.5, "frequency_penalty": 0.4, "repeat_last_n": -1},
    {"repeat_penalty": 1.3, "repeat_last_n": 0},
    {"logit_bias": ((3, 12.0), (9, -math.inf), (3, 2.0))},
    {"ignore_eos": True, "temperature": 0},
    {"temperature": 0, "repeat_penalty": 2.0, "logit_bias": ((11, 5.0),)},
]


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_tokens_are_those_of_the_chain_written_slowly(sampler, changes):
    sampling, eog = Sampling(42, **changes), (5, 6)
    state = SamplerState(sampling, eog)
    twin = np.empty(STATE_SIZE, np.uint32)
    start(twin, 42, 0)
    history: list[int] = [1, 1, 2, 3, 5, 8, 1]
    for step in range(60):
        logits = random_logits(step)
        logits[5] += 9
        uniform = draw(twin) if sampling.temperature > 0 else 0.0
        token = sampler.sample(logits, np.array(history, np.int32), state)
        assert token == naive_choice(logits, history, sampling, uniform, eog)
        history.append(token)
    assert state.num_draws == (60 if sampling.temperature > 0 else 0)


def test_sampling_leaves_the_logits_as_they_were(sampler):
    logits = random_logits()
    state = SamplerState(Sampling(1, repeat_penalty=1.5, logit_bias=((1, 5.0),)))
    sampler.sample(logits, np.arange(50, dtype=np.int32), state)
    assert (logits == random_logits()).all()


def test_a_resumed_state_goes_on_with_the_same_tokens(sampler):
    whole = SamplerState(Sampling(9))
    tokens = [sampler.sample(random_logits(i), NO_TOKENS, whole) for i in range(20)]
    resumed = SamplerState(Sampling(9), (), 12)
    assert [sampler.sample(random_logits(i), NO_TOKENS, resumed) for i in range(12, 20)] == tokens[12:]


def test_what_was_sampled_before_does_not_matter(sampler):
    tokens = []
    for disturbance in ({}, {"repeat_penalty": 1.9, "repeat_last_n": -1}, {"top_k": 0, "top_p": 0.99999}):
        sampler.sample(random_logits(77), np.arange(700, dtype=np.int32), SamplerState(Sampling(3, **disturbance)))
        sampler.logprob(random_logits(78), 4, 20)
        state = SamplerState(Sampling(5, repeat_penalty=1.1))
        tokens.append([sampler.sample(random_logits(i), NO_TOKENS, state) for i in range(30)])
    assert tokens[0] == tokens[1] == tokens[2]


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 1000])
def test_the_lowest_index_wins_a_greedy_tie(size):
    logits = np.full(size, -2.5, np.float32)
    logits[[size // 2, size - 1]] = 1.0
    assert Sampler(size).sample(logits, NO_TOKENS, SamplerState(Sampling(1, temperature=0))) == size // 2


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 700, VOCAB - 1])
@pytest.mark.parametrize(
    "changes", [{}, {"temperature": 0}, {"repeat_penalty": 1.1}, {"logit_bias": ((1, 1.0),)}], ids=str
)
def test_logits_that_are_no_numbers_are_an_error(sampler, bad, place, changes):
    logits = random_logits()
    logits[place] = bad
    with pytest.raises(BrokenLogits):
        sampler.sample(logits, np.array([5], np.int32), SamplerState(Sampling(1, **changes)))
    with pytest.raises(BrokenLogits):
        sampler.logprob(logits, 1, 1)


def test_banned_tokens_are_never_drawn(sampler):
    allowed = {3, 1000}
    banned = tuple((token, -math.inf) for token in range(VOCAB) if token not in allowed)
    for changes in ({}, {"top_k": 0, "top_p": 1.0, "min_p": 0.0}, {"temperature": 0}, {"top_k": 0}):
        state = SamplerState(Sampling(1, logit_bias=banned, **changes))
        assert {sampler.sample(random_logits(i), NO_TOKENS, state) for i in range(50)} <= allowed


def test_a_bias_against_everything_is_the_requests_fault(sampler):
    banned = tuple((token, -math.inf) for token in range(VOCAB))
    with pytest.raises(InvalidRequest, match="logit_bias"):
        sampler.sample(random_logits(), NO_TOKENS, SamplerState(Sampling(1, logit_bias=banned)))


@pytest.mark.parametrize("changes", [
    {"temperature": 1e-29}, {"temperature": 1e-31}, {"temperature": 1e9}, {"repeat_penalty": 1e-6},
    {"repeat_penalty": 1e9},
    {"logit_bias": ((1, 3e38),)}, {"presence_penalty": -1e9}, {"frequency_penalty": 1e9}, {"top_k": 2**31 - 1},
    {"repeat_last_n": 2**31 - 1, "repeat_penalty": 1.1}, {"min_keep": 2**31 - 1}, {"top_k": 0, "min_keep": 2**31 - 1},
    {"top_k": 0, "top_p": 1.0, "min_p": 1.0, "min_keep": 2**31 - 1},
], ids=str)  # fmt: skip
def test_extreme_settings_give_tokens_of_the_vocabulary(sampler, changes):
    state = SamplerState(Sampling(1, **changes))
    for i in range(10):
        assert 0 <= sampler.sample(random_logits(i), np.array([1, 2, 2], np.int32), state) < VOCAB


def test_log_probabilities_are_those_of_the_raw_logits(sampler):
    logits = random_logits()
    exact = logits.astype(np.float64) - np.log(np.sum(np.exp(logits.astype(np.float64))))
    found = sampler.logprob(logits, 17, 10)
    assert found.token == 17
    assert found.logprob == pytest.approx(exact[17], abs=1e-5)
    order = np.argsort(-exact, kind="stable")[:10]
    assert [token for token, _ in found.top] == order.tolist()
    assert [value for _, value in found.top] == pytest.approx(exact[order], abs=1e-5)


@pytest.mark.parametrize("num_top", [0, 1, VOCAB, VOCAB + 5])
def test_as_many_alternatives_as_wanted_and_as_there_are(sampler, num_top):
    assert len(sampler.logprob(random_logits(), 3, num_top).top) == min(num_top, VOCAB)


def test_the_log_probability_of_the_impossible_is_finite(sampler):
    logits = random_logits()
    logits[7] = -math.inf
    assert sampler.logprob(logits, 7, 0).logprob == -float(np.finfo(np.float32).max)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 3.0]),
)  # fmt: skip
def test_the_largest_are_found_in_order_and_ties_go_to_the_lower_index(size, num, seed, scale):
    values = np.round(random_logits(seed, size, scale), 1) + np.float32(0.0)
    num = min(num, size)
    peaks, ids = np.empty(-(-size // GROUP), np.int32), np.empty(size, np.int32)
    picked, spare = np.empty(size, np.float32), np.empty(size, np.int32)
    assert survey(values, peaks)
    select_top(values, peaks, num, ids, picked, spare)
    order = np.argsort(-values, kind="stable")[:num]
    assert ids[:num].tolist() == order.tolist()
    assert picked[:num].tolist() == values[order].tolist()
    assert largest(values, peaks) == order[0]


def test_exponentials_are_exact_to_a_few_units_and_vanish_far_below():
    values = np.concatenate([np.linspace(-86, 0, 5001), [-88, -1000, -math.inf]]).astype(np.float32)
    out, powers, lanes = np.empty_like(values), np.empty(values.size, np.int32), np.empty(16)
    total = exp_sum(values, np.float32(0), out, powers, lanes)
    exact = np.exp(values.astype(np.float64))
    assert np.allclose(out[:-3], exact[:-3], rtol=3e-7, atol=0)
    assert out[-3:].tolist() == [0, 0, 0]
    assert total == pytest.approx(exact.sum(), rel=1e-6)
