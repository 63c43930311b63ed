import math
import random
from dataclasses import replace

import numpy as np
import pytest

from tests.naive_sampling import Twin
from worker.errors import InvalidRequest
from worker.sampler import BrokenLogits, Logprob, Sampler, SamplerState
from worker.sampling.breakers import Breakers
from worker.sampling.settings import ALL_SAMPLERS, Sampling

NO_TOKENS = np.zeros(0, np.int32)
VOCAB = 1500


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(VOCAB)


def random_logits(seed=0, size=VOCAB, scale=3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, size).astype(np.float32)


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
    {"temperature": 0, "xtc_probability": 1.0, "xtc_threshold": 0.01},
    {"dynatemp_range": 0.5, "dynatemp_exponent": 2.0},
    {"dynatemp_range": 3.0, "temperature": 0.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
    {"top_n_sigma": 1.0},
    {"top_n_sigma": 0.5, "top_k": 0, "samplers": ("top_n_sigma", "typ_p", "temperature"), "typical_p": 0.5},
    {"typical_p": 0.4},
    {"typical_p": 0.6, "top_k": 0, "min_keep": 12},
    {"xtc_probability": 0.5, "xtc_threshold": 0.05},
    {"xtc_probability": 1.0, "xtc_threshold": 0.0, "min_keep": 4},
    {"dry_multiplier": 1.0},
    {"dry_multiplier": 2.0, "dry_base": 1.1, "dry_allowed_length": 0, "dry_penalty_last_n": -1},
    {"dry_multiplier": 0.5, "dry_penalty_last_n": 9, "temperature": 0},
    {"mirostat": 1},
    {"mirostat": 1, "mirostat_tau": 2.0, "mirostat_eta": 0.5, "temperature": 1.3},
    {"mirostat": 2},
    {"mirostat": 2, "mirostat_tau": 0.5, "mirostat_eta": 0.7},
    {"samplers": ("top_k", "adaptive_p"), "adaptive_target": 0.4},
    {"samplers": ("adaptive_p", "temperature"), "adaptive_target": 0.0, "adaptive_decay": 0.5},
    {"samplers": ("min_p", "adaptive_p")},
    {"samplers": ()},
    {"samplers": ("temperature", "top_k", "penalties", "top_p"), "repeat_penalty": 1.4},
]


ALL_TOGETHER = {
    "repeat_penalty": 1.2, "dry_multiplier": 0.8, "top_n_sigma": 2.5, "top_k": 60, "typical_p": 0.9, "top_p": 0.9,
    "min_p": 0.01, "xtc_probability": 0.5, "xtc_threshold": 0.02, "dynatemp_range": 0.5, "min_keep": 3,
}  # fmt: skip


@pytest.mark.parametrize("changes", [*SETTINGS, ALL_TOGETHER], ids=str)
def test_tokens_are_those_of_the_chain_written_slowly(sampler, changes):
    check_against_twin(sampler, Sampling(42, **changes))


@pytest.mark.parametrize("seed", range(25))
def test_samplers_may_come_in_any_order_and_more_than_once(sampler, seed):
    order = random.Random(seed).choices(ALL_SAMPLERS, k=seed // 2)
    settings = {**ALL_TOGETHER, "adaptive_target": 0.3} if seed % 2 else {"top_k": 0, "top_p": 0.7, "min_p": 0.2}
    check_against_twin(sampler, Sampling(42, samplers=order, **settings))


def check_against_twin(sampler, sampling: Sampling) -> None:
    """Compares 40 tokens of a text that repeats itself, with a token that ends it near the front."""
    eog, breakers = (5, 6), ((7,), (9, 2), (9, 2, 4))
    if sampling.dry_is_on:
        sampling = replace(sampling, dry_breakers=Breakers({7: [()], 9: [(2,), (2, 4)]}))
    state, twin = SamplerState(sampling, eog), Twin(sampling, eog, breakers)
    history = [7, 1, 2, 3, 5, 8, 1, 2, 3, 5, 9, 2, 1, 2, 3]
    for step in range(40):
        logits = random_logits(step)
        logits[[1, 2, 3, 5, 8, 9]] += 6
        expected = twin.sample(logits, history)
        assert sampler.sample(logits, np.array(history, np.int32), state) == expected
        check_probabilities(sampler.logprob_after_sampling(VOCAB), twin)
        history.append(expected)
    is_greedy = "temperature" in sampling.samplers and sampling.temperature <= 0
    assert state.memory[:2] == (0 if is_greedy else twin.num_draws, twin.num_xtc_draws)


def check_probabilities(found: Logprob, twin: Twin) -> None:
    expected, known = np.zeros(VOCAB), np.zeros(VOCAB)
    for (token, _), probability in zip(twin.left, twin.probabilities(), strict=True):
        expected[token] = probability
    for token, logprob in found.top:
        known[token] = math.exp(logprob)
    assert (np.abs(known - expected) <= np.maximum(1e-3 * expected, 3e-6)).all()


def test_sampling_leaves_the_logits_as_they_were(sampler):
    logits = random_logits()
    state = SamplerState(Sampling(1, repeat_penalty=1.5, logit_bias=((1, 5.0),)))
    sampler.sample(logits, np.arange(50, dtype=np.int32), state)
    assert (logits == random_logits()).all()


@pytest.mark.parametrize("changes", [*SETTINGS, ALL_TOGETHER], ids=str)
@pytest.mark.parametrize("num_before", [1, 12])
def test_a_resumed_state_goes_on_with_the_same_tokens(sampler, changes, num_before):
    def tokens(state, steps, history=()):
        history = list(history)
        for step in steps:
            history.append(sampler.sample(random_logits(step), np.array(history, np.int32), state))
        return history

    sampling = Sampling(9, **changes)
    whole = tokens(SamplerState(sampling), range(20))
    first = SamplerState(sampling)
    before = tokens(first, range(num_before))
    resumed = SamplerState(sampling, (), first.memory)
    assert tokens(resumed, range(num_before, 20), before) == whole


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
    {"logit_bias": ((1, 1e9),)}, {"presence_penalty": -1e9}, {"frequency_penalty": 1e9}, {"top_k": 2**31 - 1},
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
