"""Whatever numbers a request has, they are refused by name, or give tokens of the vocabulary."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos import inference_pb2 as pb
from tests.worker.fake_model import FakeTokenizer
from worker.errors import InvalidRequest
from worker.prompt import PromptReader
from worker.rpc.limits import read_guessing, read_sampling
from worker.sampler import Sampler, SamplerState
from worker.sampling.settings import ALL_SAMPLERS, NOTHING_YET, Sampling
from worker.sequence import Guessing

VOCAB = 48
PROMPTS = PromptReader(FakeTokenizer(VOCAB), None)
SAMPLER = Sampler(VOCAB)

FLOATS = st.floats(width=32) | st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e9, -1e9, 1e-6, 1e-30, math.nan, math.inf])
INTEGERS = st.sampled_from([0, 1, -1, -2, 2, 3, 64, 2**31 - 1, -(2**31)])
KINDS = {
    field.name: INTEGERS if field.type == field.TYPE_INT32 else FLOATS
    for field in pb.Sampling.DESCRIPTOR.fields
    if field.type in (field.TYPE_INT32, field.TYPE_FLOAT)
}
GOOD = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "repeat_penalty": 1.0, "repeat_last_n": 64}


@settings(deadline=None, max_examples=400)
@given(
    st.fixed_dictionaries({}, optional=KINDS),
    st.lists(st.tuples(st.integers(-1, VOCAB), FLOATS), max_size=4),
    st.none() | st.lists(st.sampled_from([*ALL_SAMPLERS, "infill"]), max_size=12),
    st.integers(0, 2**32 - 1),
)
def test_no_numbers_break_the_sampler(fields, biases, names, seed):
    message = pb.Sampling(**{**GOOD, **fields}, seed=seed, has_seed=True)
    message.logit_bias.extend(pb.LogitBias(token=token, bias=bias) for token, bias in biases)
    if names is not None:
        message.samplers.names.extend(names)
        message.samplers.SetInParent()
    history = [1, 2, 3, 1, 2, 3, 1, 2]
    logits = np.random.default_rng(seed).normal(0, 5, (6, VOCAB)).astype(np.float32)
    try:
        state = SamplerState(read_sampling(message, PROMPTS), {0})
        for row in logits:
            history.append(SAMPLER.sample(row, np.array(history, np.int32), state))
            found = SAMPLER.logprob_after_sampling(5)
            assert found.token == history[-1] and found.logprob <= 1e-6
    except InvalidRequest as error:
        assert "Field '" in str(error)
    assert all(0 <= token < VOCAB for token in history)


def test_what_is_absent_is_llama_servers_default():
    message = pb.Sampling(**GOOD, min_p=0.05, seed=1, has_seed=True)
    expected = Sampling(1)
    found = read_sampling(message, PROMPTS)
    for name in Sampling.__slots__:
        assert getattr(found, name) == pytest.approx(getattr(expected, name)), name


def test_no_samplers_at_all_is_not_the_default_ones():
    message = pb.Sampling(**GOOD, samplers=pb.SamplerOrder())
    assert read_sampling(message, PROMPTS).samplers == ()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"dry_sequence_breakers": ["x"] * 65}, "dry_sequence_breakers"),
        ({"dry_sequence_breakers": ["x" * 41]}, "dry_sequence_breakers"),
        ({"dry_sequence_breakers": [""]}, "dry_sequence_breakers"),
        ({"samplers": pb.SamplerOrder(names=["top_k"] * 65)}, "samplers"),
        ({"samplers": pb.SamplerOrder(names=["top-k"])}, "samplers"),
        ({"logit_bias": [pb.LogitBias(token=1)] * 49}, "logit_bias"),
    ],
)
def test_lists_have_limits(changes, name):
    with pytest.raises(InvalidRequest, match=name):
        read_sampling(pb.Sampling(**GOOD, **changes), PROMPTS)


def test_a_sequence_begins_with_nothing_to_remember():
    assert SamplerState(Sampling(1)).memory == NOTHING_YET


def test_what_is_said_of_guesses_is_checked_and_what_is_not_is_left_to_the_worker():
    assert read_guessing(pb.Guessing(most=0, least_probability=1.0)) == Guessing(most=0, least_probability=1.0)
    for wrong, name in ((pb.Guessing(most=-1), "n_max"), (pb.Guessing(fewest=-1), "n_min"),
                        (pb.Guessing(least_probability=math.nan), "p_min")):  # fmt: skip
        with pytest.raises(InvalidRequest, match=rf"^Field 'speculative\.{name}'"):
            read_guessing(wrong)
