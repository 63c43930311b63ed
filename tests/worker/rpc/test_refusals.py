"""Requests that cannot be served are refused by the field that says so, and the worker goes on."""

import math
import re

import grpc
import pytest

from protos import inference_pb2 as pb
from tests.worker.fake_model import FakeTokenizer
from tests.worker.rpc.serving import detail_of, sampling_of, tokens_of

pytestmark = pytest.mark.anyio

SPECIAL = float("nan"), float("inf"), float("-inf")

BAD_SAMPLING = [
    *[{"temperature": value} for value in SPECIAL],
    *[{"top_p": value} for value in SPECIAL],
    *[{"min_p": value} for value in SPECIAL],
    *[{"repeat_penalty": value} for value in (*SPECIAL, 0, -1)],
    *[{"presence_penalty": value} for value in SPECIAL],
    *[{"frequency_penalty": value} for value in SPECIAL],
    {"repeat_last_n": -2},
    {"min_keep": -1},
    *[{"logit_bias": [{"token": token, "bias": 1}]} for token in (-1, 48, 2**31 - 1)],
    *[{"logit_bias": [{"token": 5, "bias": value}]} for value in SPECIAL[:2]],
]


@pytest.mark.parametrize("changes", BAD_SAMPLING, ids=str)
async def test_a_number_out_of_range_is_refused_by_name(worker, changes):
    status, detail = await worker.error(sampling=sampling_of(**changes))
    assert (status, detail.code) == (grpc.StatusCode.INVALID_ARGUMENT, pb.INVALID_REQUEST)
    assert f"'{next(iter(changes))}'" in detail.message
    assert len((await worker.answer(max_tokens=1))[1]) == 1


EXTREME_SAMPLING = [
    {"temperature": -1}, {"temperature": 1e9}, {"temperature": 1e-38}, {"top_k": 2**31 - 1}, {"top_k": -(2**31)},
    {"top_p": 0}, {"top_p": -5}, {"top_p": 7}, {"min_p": 1}, {"min_keep": 2**31 - 1}, {"repeat_penalty": 1e-5},
    {"repeat_last_n": 2**31 - 1, "repeat_penalty": 1e9}, {"seed": 2**32 - 1}, {"presence_penalty": 1e9},
    {"frequency_penalty": -1e9, "repeat_last_n": -1}, {"top_k": 0, "top_p": 1, "min_p": 0},
    {"logit_bias": [{"token": 5, "bias": float("-inf")}]}, {"logit_bias": [{"token": 47, "bias": 1e9}]},
]  # fmt: skip


@pytest.mark.parametrize("changes", EXTREME_SAMPLING, ids=str)
async def test_extreme_numbers_within_their_range_are_served(worker, changes):
    _, deltas, _ = await worker.answer(max_tokens=5, sampling=sampling_of(**changes))
    assert len(tokens_of(deltas)) == 5


BAD_REQUESTS = [
    ({"priority": 10}, "'priority'"),
    ({"priority": -1}, "'priority'"),
    ({"weight": -1.0}, "'weight'"),
    ({"weight": float("nan")}, "'weight'"),
    ({"weight": 1e7}, "'weight'"),
    ({"place": -2}, "'id_slot'"),
    ({"num_discarded": -1}, "'n_discard'"),
    ({"tokens": [-1]}, "'prompt'"),
    ({"tokens": [48]}, "'prompt'"),
    ({"prompt": pb.Prompt()}, "'prompt'"),
    ({"logprobs": pb.Logprobs(enabled=True, num_top=129)}, "'n_probs'"),
    ({"logprobs": pb.Logprobs(num_top=-1)}, "'n_probs'"),
    ({"resume": pb.Resume(tokens=[48])}, "'resume'"),
    ({"resume": pb.Resume(tokens=[4], num_draws=2)}, "'num_draws'"),
    ({"resume": pb.Resume(tokens=[4] * 126)}, "'resume'"),
    ({"resume": pb.Resume(tokens=[4], memory=pb.SamplerMemory(num_xtc_draws=65))}, "'num_xtc_draws'"),
    ({"resume": pb.Resume(tokens=[4], memory=pb.SamplerMemory(mirostat_mu=math.nan))}, "'mirostat_mu'"),
    ({"resume": pb.Resume(tokens=[4], memory=pb.SamplerMemory(adaptive_weight=0))}, "'adaptive_weight'"),
    ({"stop": ["x"] * 1025}, "'stop'"),
    ({"prompt": pb.Prompt(chat=pb.Chat(messages_json="{"))}, "'messages'"),
    ({"prompt": pb.Prompt(chat=pb.Chat(messages_json="{}"))}, "'messages'"),
    ({"prompt": pb.Prompt(chat=pb.Chat(messages_json="[1]"))}, "'messages'"),
    ({"prompt": pb.Prompt(chat=pb.Chat(messages_json="[]", tools_json="7"))}, "'tools'"),
]


@pytest.mark.parametrize(("fields", "named"), BAD_REQUESTS, ids=lambda value: str(value)[:40])
async def test_a_bad_request_is_refused_by_field(worker, fields, named):
    status, detail = await worker.error(**fields)
    assert (status, detail.code) == (grpc.StatusCode.INVALID_ARGUMENT, pb.INVALID_REQUEST)
    assert named in detail.message


async def test_ids_outside_the_vocabulary_are_not_detokenized(worker):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await worker.stub.Detokenize(pb.DetokenizeRequest(tokens=[48]))
    assert detail_of(caught.value)[1].code == pb.INVALID_REQUEST


async def test_a_prompt_as_long_as_the_context_is_refused_with_both_numbers(worker):
    status, detail = await worker.error(tokens=[5] * 128)
    assert (status, detail.code) == (grpc.StatusCode.INVALID_ARGUMENT, pb.CONTEXT_EXCEEDED)
    assert (detail.num_prompt_tokens, detail.context_length) == (128, 128)


async def test_a_prompt_too_long_for_any_tokenisation_is_refused_before_it_is_tokenised(worker, monkeypatch):
    monkeypatch.setattr(FakeTokenizer, "encode", None)
    monkeypatch.setattr(FakeTokenizer, "longest_token", 10)
    prompt = pb.Prompt(parts=pb.PromptParts(parts=[{"text": "x" * 2000}]))
    status, detail = await worker.error(prompt=prompt)
    assert (status, detail.code) == (grpc.StatusCode.INVALID_ARGUMENT, pb.CONTEXT_EXCEEDED)
    assert (detail.num_prompt_tokens, detail.context_length) == (200, 128)
    assert detail.message.startswith("request (at least 200 tokens) exceeds the available context size (128 tokens)")


async def test_a_failing_model_is_an_internal_error_without_its_traceback(worker):
    worker.model.fail_on = 33
    status, detail = await worker.error(tokens=[33])
    assert (status, detail.code) == (grpc.StatusCode.INTERNAL, pb.INTERNAL)
    assert "told to fail" not in detail.message
    assert (await worker.answer(max_tokens=2))[2].num_completion_tokens == 2


async def test_an_unexpected_exception_is_internal_and_neutral(worker):
    worker.engine.stats = lambda: {}["secret"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await worker.stub.Stats(pb.StatsRequest())
    status, detail = detail_of(caught.value)
    assert (status, detail.code) == (grpc.StatusCode.INTERNAL, pb.INTERNAL)
    assert "secret" not in detail.message + caught.value.details()


async def test_a_request_without_memory_for_it_fails_alone_and_the_log_has_the_sizes(worker, monkeypatch, caplog):
    """F5."""
    monkeypatch.setattr(FakeTokenizer, "encode", lambda *_, **__: bytearray(1 << 60))
    request = pb.TokenizeRequest(content=pb.PromptParts(parts=[{"text": "too much"}]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await worker.stub.Tokenize(request, metadata=worker.metadata)
    status, detail = detail_of(caught.value)
    assert (status, detail.code) == (grpc.StatusCode.UNAVAILABLE, pb.UNAVAILABLE)
    assert detail.message == "the worker is out of memory"
    assert re.search(r"out of memory: [0-9.]+ GiB taken, [0-9.]+ GiB free", caplog.text)
    assert len((await worker.answer(max_tokens=1))[1]) == 1
