"""Requests that are answered: from protos to text and back."""

import asyncio
import json
from functools import reduce
from operator import xor

import numpy as np
import pytest

from protos import inference_pb2 as pb
from tests.worker.fake_model import FakeTokenizer
from tests.worker.rpc.serving import DEADLINE, sampling_of, serving, text, tokens_of
from worker.cache.kv_cache import chain

pytestmark = pytest.mark.anyio


async def test_an_answer_starts_continues_and_finishes(worker):
    started, deltas, finished = await worker.answer(max_tokens=6)
    assert (started.num_prompt_tokens, started.seed, started.prompt) == (3, 3, "")
    assert len(tokens_of(deltas)) == 6
    assert text(deltas) == "".join(chr(48 + token) for token in tokens_of(deltas))
    assert deltas[-1].num_draws == 6
    assert (finished.reason, finished.num_prompt_tokens, finished.num_completion_tokens) == (pb.LENGTH, 3, 6)
    assert (finished.timings.num_prompt, finished.timings.num_predicted) == (3, 6)
    assert finished.timings.prompt_ms > 0 and finished.timings.predicted_ms > 0


async def test_progress_through_the_prompt_is_told_after_each_step_if_asked_for(worker):
    asked = {"tokens": range(5, 25), "max_tokens": 1, "cache_prompt": False}
    replies = [reply async for reply in worker.generate(**asked, return_progress=True)]
    assert [reply.WhichOneof("event") for reply in replies] == ["started", *["progress"] * 3, "delta", "finished"]
    assert [reply.progress.num_done for reply in replies[1:4]] == [0, 16, 20]
    assert {(reply.progress.num_prompt_tokens, reply.progress.num_cached_tokens) for reply in replies[1:4]} == {(20, 0)}
    assert 0 == replies[1].progress.ms < replies[2].progress.ms < replies[3].progress.ms
    silent = [reply.WhichOneof("event") async for reply in worker.generate(**asked)]
    assert silent == ["started", "delta", "finished"]


async def test_a_limit_of_time_reaches_the_engine(worker):
    submitted, submit = [], worker.engine.submit
    worker.engine.submit = lambda request, *rest: (submitted.append(request), submit(request, *rest))[1]
    await worker.answer(max_tokens=1, max_predict_ms=250)
    await worker.answer(max_tokens=1)
    assert [request.max_seconds for request in submitted] == [0.25, 0.0]


async def test_the_first_token_is_sent_before_the_second_is_computed(worker):
    worker.model.gate.clear()
    call = worker.generate(max_tokens=3)
    await worker.until(lambda stats: stats.busy)
    computed, forward = asyncio.Event(), worker.model.forward
    loop = asyncio.get_running_loop()

    def held_forward(*arguments):
        loop.call_soon_threadsafe(computed.set)
        worker.model.gate.wait(DEADLINE)
        return forward(*arguments)

    worker.model.forward = held_forward
    worker.model.gate.set()
    await computed.wait()
    worker.model.gate.clear()
    replies = [await call.read(), await call.read()]
    assert replies[0].HasField("started") and len(replies[1].delta.tokens) >= 1
    worker.model.gate.set()
    await call.read()


async def test_tokens_that_arrive_together_share_a_delta_and_lose_nothing(worker):
    _, deltas, _ = await worker.answer(max_tokens=100, logprobs=pb.Logprobs(enabled=True, num_top=2))
    assert len(tokens_of(deltas)) == 100
    for delta in deltas:
        assert [logprob.token for logprob in delta.logprobs] == list(delta.tokens)
        assert all(len(logprob.top) == 2 and logprob.piece for logprob in delta.logprobs)


async def test_the_same_seed_gives_the_same_text_and_no_seed_reports_one(worker):
    first = await worker.answer(max_tokens=20)
    second = await worker.answer(max_tokens=20)
    assert text(first[1]) == text(second[1])
    drawn = await worker.answer(max_tokens=20, sampling=sampling_of(has_seed=False))
    again = await worker.answer(max_tokens=20, sampling=sampling_of(seed=drawn[0].seed))
    assert text(drawn[1]) == text(again[1])


async def test_a_stop_string_is_reported(worker):
    _, deltas, _ = await worker.answer(max_tokens=20)
    stop = text(deltas)[4:6]
    _, stopped, finished = await worker.answer(max_tokens=20, stop=["", stop])
    assert (finished.reason, finished.stop_string) == (pb.STOP_STRING, stop)
    assert text(stopped) == text(deltas)[: text(deltas).index(stop)]


async def test_a_resumed_answer_goes_on_without_repeating_text(worker):
    _, whole, _ = await worker.answer(max_tokens=12)
    emitted = tokens_of(whole)[:5]
    _, rest, finished = await worker.answer(max_tokens=12, resume=pb.Resume(tokens=emitted, num_draws=5))
    assert tokens_of(rest) == tokens_of(whole)[5:]
    assert finished.num_completion_tokens == 12


REMEMBERING = [
    {"mirostat": 1},
    {"mirostat": 2, "mirostat_tau": 3.0},
    {"xtc_probability": 0.5, "xtc_threshold": 0.02},
    {"samplers": pb.SamplerOrder(names=["xtc", "adaptive_p"]), "adaptive_target": 0.1, "xtc_probability": 0.4},
]


@pytest.mark.parametrize("changes", REMEMBERING, ids=str)
async def test_what_samplers_remember_travels_with_the_answer(worker, changes):
    sampling = sampling_of(**changes)
    _, whole, _ = await worker.answer(max_tokens=12, sampling=sampling)
    place = next(place for place, delta in enumerate(whole) if len(tokens_of(whole[: place + 1])) >= 5)
    emitted, last = tokens_of(whole[: place + 1]), whole[place]
    resume = pb.Resume(tokens=emitted, num_draws=last.num_draws, memory=last.memory)
    assert resume.memory != pb.SamplerMemory()
    _, rest, _ = await worker.answer(max_tokens=12, sampling=sampling, resume=resume)
    assert emitted + tokens_of(rest) == tokens_of(whole)


async def test_a_prompts_log_probabilities_come_before_its_answer(worker):
    wanted = pb.Logprobs(enabled=True, num_top=1, of_prompt=True)
    _, deltas, _ = await worker.answer(tokens=tuple(range(2, 22)), max_tokens=3, logprobs=wanted)
    scores = [score for delta in deltas for score in delta.prompt_logprobs]
    assert [score.token for score in scores] == list(range(2, 22))
    assert all(score.logprob < 0 and len(score.top) == 1 for score in scores[1:])
    first = next(place for place, delta in enumerate(deltas) if delta.tokens)
    assert not any(delta.prompt_logprobs for delta in deltas[first + 1 :])


async def test_a_bias_on_a_text_is_one_on_its_tokens(worker):
    greedy = {"temperature": 0, "logit_bias": [pb.LogitBias(text="c", bias=1000)]}
    _, deltas, _ = await worker.answer(max_tokens=2, sampling=sampling_of(**greedy))
    assert tokens_of(deltas) == FakeTokenizer().encode("c", add_special=False) * 2


async def test_text_and_ids_make_one_prompt_with_the_first_token_once(worker):
    parts = pb.PromptParts(parts=[{"text": "ab"}, {"tokens": {"ids": [9]}}, {"text": "c"}])
    started, _, _ = await worker.answer(prompt=pb.Prompt(parts=parts), max_tokens=1, return_prompt=True)
    assert started.num_prompt_tokens == 5
    assert started.prompt.startswith("<begin>") and started.prompt.count("<begin>") == 1


async def test_a_prompt_of_ids_gets_no_first_token(worker):
    started, _, _ = await worker.answer(tokens=[5, 6], max_tokens=1, return_prompt=True)
    assert (started.num_prompt_tokens, started.prompt) == (2, "56")


async def test_a_prompt_without_tokens_ends_at_once_and_is_not_given_to_the_engine(worker):
    nothing = pb.Prompt(parts=pb.PromptParts(parts=[{"tokens": {"ids": []}}]))
    started, deltas, finished = await worker.answer(prompt=nothing, return_prompt=True)
    assert (started.num_prompt_tokens, started.prompt, started.seed, deltas) == (0, "", 3, [])
    assert (finished.reason, finished.num_completion_tokens) == (pb.NO_PROMPT, 0)
    assert worker.num_submitted == 0
    await worker.until_open(0)


async def test_a_conversation_is_rendered_and_gets_its_first_token(worker):
    chat = pb.Chat(messages_json=json.dumps([{"role": "user", "content": "hey"}]), add_generation_prompt=True)
    reply = await worker.stub.ApplyTemplate(pb.ApplyTemplateRequest(chat=chat))
    assert reply.prompt == "hey!"
    opened = await worker.stub.ApplyTemplate(pb.ApplyTemplateRequest(chat=pb.Chat(messages_json="[]", continued="x")))
    assert opened.prompt == "x"
    started, _, _ = await worker.answer(prompt=pb.Prompt(chat=chat), max_tokens=1)
    assert started.num_prompt_tokens == 5


async def test_tokenize_and_detokenize(worker):
    content = pb.PromptParts(parts=[{"text": "ab"}])
    with_special = await worker.stub.Tokenize(pb.TokenizeRequest(content=content, add_special=True))
    without = await worker.stub.Tokenize(pb.TokenizeRequest(content=content))
    assert list(with_special.tokens) == [1, *without.tokens]
    assert with_special.pieces[0] == b"<begin>"
    assert (await worker.stub.Detokenize(pb.DetokenizeRequest(tokens=[5, 6]))).text == "56"


async def test_describe_tells_the_files_facts(worker):
    facts = await worker.stub.Describe(pb.DescribeRequest())
    assert (facts.architecture, facts.file_type, facts.embedding_length, facts.vocab_size) == ("fake", "Q4_1", 7, 48)
    assert (facts.bos_token, facts.eos_token, facts.context_length) == ("<begin>", "<end>", 128)
    assert facts.chat_template == "the template"


async def test_stats_count_what_was_computed(worker):
    await worker.answer(tokens=[5] * 9, max_tokens=4, cache_prompt=True)
    await worker.answer(tokens=[5] * 9, max_tokens=4, cache_prompt=True)
    stats = await worker.stub.Stats(pb.StatsRequest())
    assert (stats.prompt_tokens_total, stats.cached_tokens_total, stats.predicted_tokens_total) == (10, 8, 8)
    assert stats.num_steps >= 8 and stats.resident_bytes > 1 << 20
    assert stats.advanced_sequences_total == stats.num_steps
    assert stats.longest_sequence == 9 + 4 - 1  # the last token is never computed
    assert stats.num_free_blocks + stats.num_cached_blocks == stats.num_blocks == 64


async def test_stats_tell_what_can_be_reused(worker):
    prompts = [5] * 9, [5] * 4 + [6] * 4 + [7]
    for prompt in prompts:
        await worker.answer(tokens=prompt, max_tokens=0, cache_prompt=True)
    stats = await worker.stub.Stats(pb.StatsRequest())
    names = {name for prompt in prompts for name in chain(np.array(prompt, np.int32), 4)}
    assert (stats.num_prefix_blocks, stats.num_prefixes) == (3, 2)
    assert stats.prefix_digest == reduce(xor, (int.from_bytes(name[:8]) for name in names))


async def test_stats_tell_how_long_steps_took(worker):
    await worker.answer(tokens=range(2, 11), max_tokens=4)
    stats = await worker.stub.Stats(pb.StatsRequest())
    assert sum(stats.step_counts) == stats.num_steps and len(stats.step_counts) == len(stats.step_bounds) + 1
    assert stats.step_seconds_total > 0 and stats.expected_wait == 0


async def test_a_shifted_answer_says_that_it_was_truncated(tmp_path):
    async with serving(tmp_path, context_length=32, shifts_context=True) as worker:
        _, deltas, finished = await worker.answer(max_tokens=50, num_kept=2)
        assert len(tokens_of(deltas)) == 50 and finished.truncated


@pytest.mark.parametrize("max_tokens", [2**31 - 1, -1, -(2**31)])
async def test_no_limit_ends_with_the_context(worker, max_tokens):
    _, deltas, finished = await worker.answer(max_tokens=max_tokens)
    assert (finished.reason, len(tokens_of(deltas))) == (pb.LENGTH, 125)
