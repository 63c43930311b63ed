"""The service over a real gRPC server on a unix socket, with a model that has no weights."""
# ruff: noqa: ASYNC110 (polling with a deadline)

import asyncio
import json
import math
import socket
import stat
from contextlib import asynccontextmanager
from functools import partial

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import inference_pb2 as pb
from protos import inference_pb2_grpc
from tests.certificates import Authority
from tests.worker.fake_model import EOG, FakeDetokenizer, FakeModel, FakeTokenizer
from worker.cache.slot_files import SlotFiles
from worker.context import Capacity
from worker.engine import Engine
from worker.prompt import PromptReader
from worker.rpc.access import Access, AccessError, read_tls
from worker.rpc.exchange import post_events
from worker.rpc.loaded import LoadedModel, describe
from worker.rpc.server import ListenError, Server

pytestmark = pytest.mark.anyio
DEADLINE = 60
METADATA = {"general.architecture": "fake", "fake.embedding_length": 7, "general.name": "Fake", "general.file_type": 3}


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Template:
    source = "the template"

    def render(self, messages, *, tools, add_generation_prompt, arguments):
        return "".join(m["content"] for m in messages) + ("!" if add_generation_prompt else "")


class Worker:
    """A server in this process and a client to it."""

    def __init__(self, server: Server, listen: str, token: str | None) -> None:
        self.server = server
        self.channel = grpc.aio.insecure_channel(listen, options=(("grpc.use_local_subchannel_pool", 1),))
        self.stub = inference_pb2_grpc.InferenceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)
        self.metadata = (("corral-token", token),) if token else ()
        self.model = FakeModel(64, 4)
        self.engine: Engine | None = None
        self.num_submitted = 0

    async def open(self, slots=None, **changes) -> None:
        settings = {"context_length": 128, "max_running": 4, "max_waiting": 4, "step_tokens": 16} | changes
        post = partial(asyncio.get_running_loop().call_soon_threadsafe, post_events)
        self.engine = Engine(self.model, Capacity(num_blocks=64, block_size=4, **settings), {EOG}, post, print)
        self.engine.start()
        self.engine.submit = self._count(self.engine.submit)
        prompts = PromptReader(FakeTokenizer(), Template())
        facts = describe(METADATA, prompts, context_length=settings["context_length"], num_threads=1)
        files = SlotFiles(slots, bytes(32)) if slots else None
        await self.server.open(LoadedModel(self.engine, prompts, FakeDetokenizer, facts, files))

    def _count(self, submit):
        def counting(*arguments):
            self.num_submitted += 1
            return submit(*arguments)

        return counting

    def generate(self, **fields):
        return self.stub.Generate(generate_request(**fields), metadata=self.metadata, timeout=DEADLINE)

    async def answer(self, **fields) -> tuple[pb.Started, list[pb.Delta], pb.Finished]:
        replies = [reply async for reply in self.generate(**fields)]
        return replies[0].started, [reply.delta for reply in replies[1:-1]], replies[-1].finished

    async def error(self, **fields) -> tuple[grpc.StatusCode, pb.ErrorDetail]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.answer(**fields)
        return detail_of(caught.value)

    async def until(self, condition) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition(await self.stub.Stats(pb.StatsRequest(), metadata=self.metadata)):
                await asyncio.sleep(0.002)

    async def until_open(self, num_calls: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while self.server._inference._entrance.num_open != num_calls:
                await asyncio.sleep(0.002)

    async def until_submitted(self, num_requests: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while self.num_submitted != num_requests:
                await asyncio.sleep(0.002)

    async def status(self) -> int:
        return (await self.health.Check(health_pb2.HealthCheckRequest(service=""))).status


def detail_of(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, pb.ErrorDetail]:
    detail = next(value for key, value in error.trailing_metadata() if key == "corral-error-bin")
    return error.code(), pb.ErrorDetail.FromString(detail)


def generate_request(tokens=(5, 6, 7), sampling=None, **fields) -> pb.GenerateRequest:
    fields.setdefault("prompt", pb.Prompt(parts=pb.PromptParts(parts=[{"tokens": {"ids": tokens}}])))
    return pb.GenerateRequest(sampling=sampling or sampling_of(), **fields)


def sampling_of(**changes) -> pb.Sampling:
    fields = {"seed": 3, "has_seed": True, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "repeat_penalty": 1}
    return pb.Sampling(**fields | changes)


@asynccontextmanager
async def serving(folder, *, token=None, opened=True, max_open=100, traces=None, **changes):
    server = Server(Access(token), max_open, traces)
    worker = Worker(server, await server.start(f"unix:{folder}/worker.sock"), token)
    try:
        if opened:
            await worker.open(**changes)
        yield worker
    finally:
        worker.model.gate.set()
        await worker.channel.close()
        await server.drain(0)


@pytest.fixture
async def worker(tmp_path):
    async with serving(tmp_path) as worker:
        yield worker


def text(deltas) -> str:
    return "".join(delta.text for delta in deltas)


def tokens_of(deltas) -> list[int]:
    return [token for delta in deltas for token in delta.tokens]


async def test_an_answer_starts_continues_and_finishes(worker):
    started, deltas, finished = await worker.answer(max_tokens=6)
    assert (started.num_prompt_tokens, started.seed, started.prompt) == (3, 3, "")
    assert len(tokens_of(deltas)) == 6
    assert text(deltas) == "".join(chr(48 + token) for token in tokens_of(deltas))
    assert deltas[-1].num_draws == 6
    assert (finished.reason, finished.num_prompt_tokens, finished.num_completion_tokens) == (pb.LENGTH, 3, 6)
    assert (finished.timings.num_prompt, finished.timings.num_predicted) == (3, 6)
    assert finished.timings.prompt_ms > 0 and finished.timings.predicted_ms > 0


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


async def test_a_conversation_is_rendered_and_gets_its_first_token(worker):
    chat = pb.Chat(messages_json=json.dumps([{"role": "user", "content": "hey"}]), add_generation_prompt=True)
    reply = await worker.stub.ApplyTemplate(pb.ApplyTemplateRequest(chat=chat))
    assert reply.prompt == "hey!"
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


async def test_stats_tell_how_long_steps_took(worker):
    await worker.answer(tokens=range(2, 11), max_tokens=4)
    stats = await worker.stub.Stats(pb.StatsRequest())
    assert sum(stats.step_counts) == stats.num_steps and len(stats.step_counts) == len(stats.step_bounds) + 1
    assert stats.step_seconds_total > 0 and stats.expected_wait == 0


async def test_a_prompt_is_found_by_what_it_says_and_by_the_names_of_its_beginnings(worker):
    async def find(tokens):
        prompt = pb.Prompt(parts=pb.PromptParts(parts=[{"tokens": {"ids": tokens}}]))
        return await worker.stub.FindPrefix(pb.FindPrefixRequest(prompt=prompt))

    assert (await find(range(2, 13))).num_held == 0
    await worker.answer(tokens=range(2, 13), max_tokens=1, cache_prompt=True)
    found = await find(range(2, 13))
    assert (found.num_held, found.num_tokens_each, len(found.names.names)) == (8, 4, 2)
    assert found.num_free == 4 * (await worker.stub.Stats(pb.StatsRequest())).num_free_blocks > 0
    assert (await find(range(2, 10))).num_held == 4, "one token is always left to compute"
    longer = await find([*range(2, 10), *range(30, 40)])
    assert (longer.num_held, longer.names.names[:2]) == (8, found.names.names)
    other = await find([9, *range(3, 13)])
    assert other.num_held == 0 and not set(other.names.names) & set(found.names.names)
    for names, num_held in ((longer.names, 8), (other.names, 0), (pb.PrefixNames(), 0)):
        assert (await worker.stub.FindPrefix(pb.FindPrefixRequest(names=names))).num_held == num_held


async def test_a_prefix_is_looked_for_while_a_step_is_computed(worker):
    worker.model.gate.clear()
    stream = worker.generate(max_tokens=1)
    await worker.until(lambda stats: stats.busy)
    assert (await worker.stub.FindPrefix(pb.FindPrefixRequest(prompt=generate_request().prompt))).num_held == 0
    worker.model.gate.set()
    assert len([reply async for reply in stream]) >= 2


async def test_a_place_is_told_with_the_settings_in_force(worker):
    started, _, _ = await worker.answer(max_tokens=4, place=2, sampling=sampling_of(temperature=0.5, top_k=7))
    assert started.place == 2
    places = (await worker.stub.Places(pb.PlacesRequest())).places
    assert [(place.number, place.task) for place in places] == [(0, -1), (1, -1), (2, 0), (3, -1)]
    place = places[2]
    assert (place.is_running, place.num_prompt_tokens, place.num_predicted, place.max_tokens) == (False, 3, 4, 4)
    assert (place.sampling.seed, place.sampling.temperature, place.sampling.top_k) == (3, 0.5, 7)


async def test_a_place_is_saved_restored_and_erased(tmp_path):
    change = {"number": 1, "filename": "a.bin"}
    request = {"tokens": range(2, 24), "max_tokens": 3, "place": 1, "cache_prompt": True}
    async with serving(tmp_path, slots=tmp_path / "slots") as worker:
        _, whole, _ = await worker.answer(**request)
        saved = await worker.stub.ChangePlace(pb.ChangePlaceRequest(action=pb.SAVE, **change))
        assert (saved.num_tokens, saved.num_bytes) == (24, (tmp_path / "slots" / "a.bin").stat().st_size)
        erased = await worker.stub.ChangePlace(pb.ChangePlaceRequest(action=pb.ERASE, number=1))
        assert erased.num_tokens == 25
        restored = await worker.stub.ChangePlace(pb.ChangePlaceRequest(action=pb.RESTORE, **change))
        assert restored.num_tokens == 24
        started, again, _ = await worker.answer(**request)
        assert (started.num_cached_tokens, tokens_of(again)) == (20, tokens_of(whole))


BAD_CHANGES = [
    ({"number": 1, "action": pb.SAVE, "filename": "../a"}, "Invalid filename"),
    ({"number": 4, "action": pb.SAVE, "filename": "a"}, "Invalid slot ID"),
    ({"number": -1, "action": pb.ERASE}, "Invalid slot ID"),
    ({"number": 0, "action": pb.RESTORE, "filename": "absent"}, "No such file"),
    ({"number": 0}, "Invalid action"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CHANGES, ids=str)
async def test_a_change_that_cannot_be_made_is_refused(tmp_path, change, message):
    async with serving(tmp_path, slots=tmp_path / "slots") as worker:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await worker.stub.ChangePlace(pb.ChangePlaceRequest(**change))
        status, detail = detail_of(caught.value)
    assert (status, detail.code) == (grpc.StatusCode.INVALID_ARGUMENT, pb.INVALID_REQUEST)
    assert message in detail.message


async def test_without_a_folder_places_cannot_be_changed(worker):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await worker.stub.ChangePlace(pb.ChangePlaceRequest(number=0, action=pb.ERASE))
    assert detail_of(caught.value)[1].code == pb.NOT_SUPPORTED
    assert "--slot-save-path" in detail_of(caught.value)[1].message


async def test_a_shifted_answer_says_that_it_was_truncated(tmp_path):
    async with serving(tmp_path, context_length=32, shifts_context=True) as worker:
        _, deltas, finished = await worker.answer(max_tokens=50, num_kept=2)
        assert len(tokens_of(deltas)) == 50 and finished.truncated


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
    ({"place": 4}, "'id_slot'"),
    ({"num_discarded": -1}, "'n_discard'"),
    ({"tokens": [-1]}, "'prompt'"),
    ({"tokens": [48]}, "'prompt'"),
    ({"tokens": []}, "'prompt'"),
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


@pytest.mark.parametrize("max_tokens", [2**31 - 1, -1, -(2**31)])
async def test_no_limit_ends_with_the_context(worker, max_tokens):
    _, deltas, finished = await worker.answer(max_tokens=max_tokens)
    assert (finished.reason, len(tokens_of(deltas))) == (pb.LENGTH, 125)


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


async def test_a_full_line_is_overloaded(tmp_path):
    async with serving(tmp_path, max_running=1, max_waiting=1) as worker:
        worker.model.gate.clear()
        running = worker.generate(max_tokens=2)
        await worker.until(lambda stats: stats.num_running == 1)
        others = [asyncio.ensure_future(worker.answer(max_tokens=2)) for _ in range(3)]
        await worker.until_submitted(4)
        worker.model.gate.set()
        results = await asyncio.gather(*others, return_exceptions=True)
        refusals = [detail_of(result) for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert [(status, detail.code) for status, detail in refusals] == [
            (grpc.StatusCode.RESOURCE_EXHAUSTED, pb.OVERLOADED)
        ] * 2
        assert [reply async for reply in running]


async def test_too_many_open_calls_are_overloaded(tmp_path):
    async with serving(tmp_path, max_open=1) as worker:
        worker.model.gate.clear()
        running = worker.generate(max_tokens=2)
        await worker.until(lambda stats: stats.num_running == 1)
        status, detail = await worker.error()
        assert (status, detail.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, pb.OVERLOADED)
        worker.model.gate.set()
        assert [reply async for reply in running]


async def test_a_client_leaving_frees_its_blocks(worker):
    call = worker.generate(max_tokens=-1)
    await call.read()
    call.cancel()
    await worker.until(lambda s: s.num_running == 0 and s.num_free_blocks + s.num_cached_blocks == s.num_blocks)


async def test_a_client_leaving_the_line_frees_its_place(tmp_path):
    async with serving(tmp_path, max_running=1) as worker:
        worker.model.gate.clear()
        running = worker.generate(max_tokens=2)
        await worker.until(lambda stats: stats.num_running == 1)
        waiting = worker.generate(max_tokens=2)
        await worker.until_submitted(2)
        waiting.cancel()
        await worker.until_open(1)
        worker.model.gate.set()
        assert [reply async for reply in running]
        await worker.until(lambda stats: stats.num_running == stats.num_waiting == 0)
        assert (await worker.stub.Stats(pb.StatsRequest())).predicted_tokens_total == 2


async def test_a_deadline_frees_the_request(worker):
    worker.model.gate.clear()
    call = worker.stub.Generate(generate_request(max_tokens=-1), timeout=0.2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [reply async for reply in call]
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    worker.model.gate.set()
    await worker.until(lambda stats: stats.num_running == stats.num_waiting == 0)


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


async def test_health_answers_while_a_step_is_computed(worker):
    worker.model.gate.clear()
    call = worker.generate(max_tokens=1)
    await worker.until(lambda stats: stats.busy)
    assert await worker.status() == health_pb2.HealthCheckResponse.SERVING
    worker.model.gate.set()
    assert [reply async for reply in call]


async def test_a_loading_worker_is_not_serving_and_unavailable(tmp_path):
    async with serving(tmp_path, opened=False) as worker:
        assert await worker.status() == health_pb2.HealthCheckResponse.NOT_SERVING
        status, detail = await worker.error()
        assert (status, detail.code) == (grpc.StatusCode.UNAVAILABLE, pb.UNAVAILABLE)
        await worker.open()
        assert await worker.status() == health_pb2.HealthCheckResponse.SERVING
        assert (await worker.answer(max_tokens=1))[2].num_completion_tokens == 1


async def test_draining_refuses_new_requests_and_finishes_old_ones(worker):
    worker.model.gate.clear()
    call = worker.generate(max_tokens=5)
    await worker.until(lambda stats: stats.num_running == 1)
    drained = asyncio.create_task(worker.server.drain(DEADLINE))
    async with asyncio.timeout(DEADLINE):
        while await worker.status() == health_pb2.HealthCheckResponse.SERVING:
            await asyncio.sleep(0.002)
    assert (await worker.error())[1].code == pb.UNAVAILABLE
    assert not drained.done()
    worker.model.gate.set()
    replies = [reply async for reply in call]
    assert replies[-1].finished.num_completion_tokens == 5
    await drained


async def test_what_outlives_the_grace_is_told_so(worker):
    worker.model.gate.clear()
    call = worker.generate(max_tokens=-1)
    await worker.until(lambda stats: stats.num_running == 1)
    drained = asyncio.create_task(worker.server.drain(0.01))
    async with asyncio.timeout(DEADLINE):
        while worker.engine._inbox._is_open:
            await asyncio.sleep(0.002)
    worker.model.gate.set()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [reply async for reply in call]
    assert detail_of(caught.value)[1].code == pb.UNAVAILABLE
    await drained


async def test_without_the_token_nothing_but_health_is_answered(tmp_path):
    async with serving(tmp_path, token="s3cret-ключ".encode().hex()) as worker:
        assert (await worker.answer(max_tokens=1))[2].num_completion_tokens == 1
        for metadata in ((), (("corral-token", "wrong"),), (("corral-token", ""),)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await worker.stub.Stats(pb.StatsRequest(), metadata=metadata)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                [reply async for reply in worker.stub.Generate(generate_request(), metadata=metadata)]
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert await worker.status() == health_pb2.HealthCheckResponse.SERVING


async def test_the_socket_is_for_this_user_alone(worker, tmp_path):
    assert stat.S_IMODE((tmp_path / "worker.sock").stat().st_mode) == 0o600


async def test_an_address_in_use_is_refused(worker, tmp_path):
    with pytest.raises(ListenError, match="another process"):
        await Server(Access(), 1).start(f"unix:{tmp_path}/worker.sock")
    other = Server(Access(), 1)
    listen = await other.start("127.0.0.1:0")
    with pytest.raises(ListenError, match="in use"):
        await Server(Access(), 1).start(listen)
    await other.drain(0)


async def test_a_socket_left_by_a_killed_worker_is_replaced(tmp_path):
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(f"{tmp_path}/worker.sock")
    async with serving(tmp_path) as worker:
        assert (await worker.answer(max_tokens=1))[2].num_completion_tokens == 1


@pytest.mark.parametrize(
    "listen", ["nonsense", "127.0.0.1:x", "127.0.0.1:70000", "unix:/no/folder/s", "unix:/" + "x" * 120]
)
async def test_an_address_that_cannot_be_is_refused(listen):
    with pytest.raises(ListenError, match="cannot listen on"):
        await Server(Access(open_to_all=True), 1).start(listen)


async def test_nobody_listens_beyond_this_host_for_everybody(tmp_path):
    certificate, key = Authority(tmp_path).issue("worker")
    tls = read_tls(certificate, key, None)
    for access in (Access(), Access(tls=tls)):
        with pytest.raises(AccessError, match=r"anybody who can reach 0\.0\.0\.0"):
            await Server(access, 1).start("0.0.0.0:0")
    for access in (Access("token"), Access(tls=read_tls(certificate, key, certificate)), Access(open_to_all=True)):
        server = Server(access, 1)
        assert (await server.start("0.0.0.0:0")).startswith("0.0.0.0:")
        await server.drain(0)


async def test_certificates_that_do_not_go_together_are_refused(tmp_path):
    authority = Authority(tmp_path)
    (certificate, key), (_, another_key) = authority.issue("worker"), authority.issue("another")
    for files in ((certificate, None, None), (None, key, None), (None, None, certificate)):
        with pytest.raises(AccessError, match="go together"):
            read_tls(*files)
    with pytest.raises(ListenError, match="no pair"):
        await Server(Access(tls=read_tls(certificate, another_key, None)), 1).start("127.0.0.1:0")


async def test_with_mutual_tls_only_those_with_a_certificate_get_in_but_all_may_ask_for_its_health(tmp_path):
    authority = Authority(tmp_path)
    (certificate, key), client = authority.issue("worker"), authority.issue("gateway")
    server = Server(Access(tls=read_tls(certificate, key, authority.certificate)), 1)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        health_address = f"127.0.0.1:{probe.getsockname()[1]}"
    address = await server.start("127.0.0.1:0", health_address)
    name = (("grpc.ssl_target_name_override", "worker"),)

    async def ask(channel):
        async with channel:
            return (await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)).status

    trusting = {"root_certificates": authority.certificate.read_bytes()}
    own = {"certificate_chain": client[0].read_bytes(), "private_key": client[1].read_bytes()}
    known = grpc.ssl_channel_credentials(**trusting, **own)
    assert await ask(grpc.aio.secure_channel(address, known, name)) == health_pb2.HealthCheckResponse.NOT_SERVING
    stranger = grpc.ssl_channel_credentials(**trusting)
    for channel in (grpc.aio.secure_channel(address, stranger, name), grpc.aio.insecure_channel(address)):
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(channel)
    assert await ask(grpc.aio.insecure_channel(health_address)) == health_pb2.HealthCheckResponse.NOT_SERVING
    await server.drain(0)
