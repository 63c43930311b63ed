"""What a model is thought to take, against the worker's own sizes and against a worker with a full cache."""

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from protos import inference_pb2 as pb
from router.config import ModelConfig, SupervisionConfig
from router.fleet.fleet import Fleet
from router.fleet.footprint import (
    BLOCK,
    CACHE_BYTES,
    LOADED_BYTES,
    OWN_BYTES,
    Footprint,
    draft_bytes,
    footprint,
    worker_bytes,
)
from router.fleet.ggufhead import VOCABULARY, read_numbers
from router.options.workersettings import CACHE_TYPES
from router.rpc.replica import Replica
from tests.models import smollm2
from tests.tiny_models import MODELS, write_model
from worker.drafting.drafts import MOST_DRAFTING
from worker.kernels import cache_types

NUMBERS = {
    "block_count": 10, "attention.head_count": 8, "attention.head_count_kv": 2, "embedding_length": 512,
    "feed_forward_length": 1024, "context_length": 4096,
}  # fmt: skip


def bytes_for(*arguments: str) -> int:
    return worker_bytes(NUMBERS, flags(*arguments, "--parallel", "1", "--threads", "1"))


def flags(*arguments: str) -> Mapping[str, str]:
    return dict(zip(arguments[::2], arguments[1::2], strict=True))


@pytest.mark.parametrize("name", CACHE_TYPES)
def test_a_value_in_the_cache_has_the_size_that_workers_give_it(name: str) -> None:
    assert CACHE_BYTES[name] * BLOCK * 64 == cache_types.CACHE_TYPES[name].page_bytes(64)


def test_the_cache_grows_with_the_context_and_with_its_types() -> None:
    per_position = 10 * 2 * 64 * (2 + 2) + 2 * 64 * 4
    assert bytes_for("--ctx-size", "3072") - bytes_for("--ctx-size", "2048") == 1024 * per_position
    assert bytes_for() - bytes_for("--ctx-size", "2048") == 2048 * per_position, "else that of the training"
    both = ("--cache-type-k", "f32", "--cache-type-v", "q8_0")
    saved = (4096 + 16) * 10 * 2 * 64 * (2 + 2 - 4 - 34 / 32)
    assert bytes_for() - bytes_for(*both) == int(saved)
    for_sixteen = worker_bytes(NUMBERS, flags("--threads", "1"))
    assert for_sixteen - bytes_for() == 15 * 16 * per_position, "a block for each sequence"


def test_a_step_takes_more_with_threads_tokens_and_experts() -> None:
    plain = bytes_for()
    assert bytes_for("--ubatch-size", "256") < plain == bytes_for("--ubatch-size", "512")
    assert worker_bytes(NUMBERS, flags("--parallel", "1", "--threads", "2")) - plain == 512 * 1024 * 5
    experts = NUMBERS | {"expert_used_count": 4}
    assert worker_bytes(experts, flags("--parallel", "1", "--threads", "1")) > plain


def test_logits_take_a_row_for_each_sequence() -> None:
    known = NUMBERS | {VOCABULARY: 1000}
    for num_running in (1, 4):
        arguments = flags("--parallel", str(num_running), "--threads", "1")
        assert worker_bytes(known, arguments) - worker_bytes(NUMBERS, arguments) == num_running * 1000 * 4


def test_replicas_share_the_weights_and_from_a_nursery_all_that_is_loaded(tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny.gguf", MODELS["llama"])
    size, plain = path.stat().st_size, ModelConfig(path, ("a",))
    forked, programs = footprint(plain, forked=True), footprint(plain, forked=False)
    assert programs.shared == size and programs.of(3) == size + 3 * programs.each
    assert forked.shared - size == programs.each - forked.each > LOADED_BYTES, "a vocabulary, too"
    assert forked.of(1) == programs.of(1)
    reading = ModelConfig(path, ("a",), ("--no-mmap",))
    assert footprint(reading, forked=False) == Footprint(0, programs.each + size)
    assert footprint(reading, forked=True) == forked


def test_a_model_that_guesses_for_it_counts_with_its_weights_and_a_worker_of_its_own(tmp_path: Path) -> None:
    large, small = (write_model(tmp_path / f"{name}.gguf", MODELS[name]) for name in ("llama", "gemma3"))

    def with_draft(*arguments: str) -> Footprint:
        model = ModelConfig(large, ("a",), ("--ctx-size", "1024", "--threads", "1", *arguments))
        return footprint(model, forked=True)

    plain, drafting = with_draft(), with_draft("--model-draft", str(small))
    assert drafting.shared - plain.shared == small.stat().st_size
    alone = flags("--ctx-size", "1024", "--threads", "1", "--parallel", str(MOST_DRAFTING))
    assert drafting.each - plain.each == worker_bytes(read_numbers(small), alone)
    assert with_draft("--model-draft", str(small), "--spec-type", "ngram-simple") == plain, "it is not loaded"
    assert with_draft("--model-draft", str(small), "--spec-draft-n-max", "0") == plain, "it guesses nothing"
    assert with_draft("--model-draft", str(large)).shared == plain.shared, "the same pages"
    assert with_draft("--model-draft", str(tmp_path / "absent.gguf")) == plain


def test_the_cache_of_a_model_that_guesses_goes_by_flags_of_its_own() -> None:
    def small(**given: str) -> int:
        arguments = {f"--{name.replace('_', '-')}": text for name, text in given.items()}
        return draft_bytes(NUMBERS, NUMBERS, arguments | {"--threads": "1"})

    per_position = 10 * 2 * 64 * (2 + 2) + 2 * 64 * 4
    assert small() - small(ctx_size="2048") == 2048 * per_position, "as long as the large model's"
    assert small(ctx_size="2048") - small(ctx_size="2048", ctx_size_draft="1024") == 1024 * per_position
    assert small(cache_type_k="f32", cache_type_v="f32") == small()
    assert small(cache_type_k_draft="f32") > small() > small(cache_type_v_draft="q8_0")
    assert small(threads_draft="2") > small() > small(ubatch_size="256")


@pytest.mark.parametrize("forked", [False, True])
def test_a_file_that_tells_nothing_counts_with_its_size(tmp_path: Path, forked: bool) -> None:
    (tmp_path / "a.gguf").write_bytes(bytes(1000))
    bare = LOADED_BYTES + OWN_BYTES
    assert footprint(ModelConfig(tmp_path / "a.gguf", ("a",)), forked=forked).of(1) == 1000 + bare
    assert footprint(ModelConfig(tmp_path / "absent.gguf", ("a",)), forked=forked).of(1) == bare


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    config = ModelConfig(write_model(tmp_path / "tiny.gguf", MODELS["smollm"]), ("a",))
    before = footprint(config, forked=True)
    write_model(config.path, MODELS["gemma2, 46 layers"])
    assert footprint(config, forked=True).each > before.each


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.timeout(600)
@pytest.mark.parametrize("nursery", [False, True])
async def test_workers_with_full_caches_take_what_was_foretold(nursery: bool) -> None:
    model = ModelConfig(smollm2(), ("a",), ("--ctx-size", "2048", "--parallel", "1"), replicas=2)
    async with Fleet([model], SupervisionConfig(nursery=nursery)) as fleet:
        async with asyncio.timeout(280):
            while len(fleet.open("a")) < model.replicas:
                await fleet.change()
        for replica in fleet.open("a"):
            await fill(replica, 2040)
        taken = sum(map(proportional_bytes, psutil.Process().children()))
    assert taken == pytest.approx(footprint(model, forked=nursery).of(model.replicas), rel=0.2)


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.timeout(600)
async def test_a_worker_that_guesses_by_a_model_takes_what_was_foretold(tmp_path: Path) -> None:
    small = almost_copied(smollm2(), tmp_path / "small.gguf")
    arguments = ("--ctx-size", "2048", "--parallel", "1", "--spec-type", "draft-simple", "--model-draft", str(small))
    model = ModelConfig(smollm2(), ("a",), arguments)
    plain = ModelConfig(smollm2(), ("a",), arguments[:-2])
    async with Fleet([model], SupervisionConfig(nursery=False)) as fleet:
        async with asyncio.timeout(280):
            while not fleet.open("a"):
                await fleet.change()
        await fill(fleet.open("a")[0], 1900, max_tokens=140)
        taken = sum(map(proportional_bytes, psutil.Process().children()))
    assert taken == pytest.approx(footprint(model, forked=False).of(1), rel=0.2)
    assert taken > 1.2 * footprint(plain, forked=False).of(1), "the small model is no small part of it"


def almost_copied(source: Path, copy: Path) -> Path:
    """The same model but for a byte of its weights, so that it shares no page with the other."""
    data = bytearray(source.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    return copy


def proportional_bytes(process: psutil.Process) -> int:
    """Its part of the machine's memory: a page that n processes map counts as 1/n."""
    return int(process.memory_full_info().pss)


async def fill(replica: Replica, num_tokens: int, max_tokens: int = 1) -> None:
    """The cache with one long prompt, and so many tokens more."""
    dice = random.Random(1)
    tokens = pb.TokenIds(ids=[dice.randrange(100, 40000) for _ in range(num_tokens)])
    prompt = pb.Prompt(parts=pb.PromptParts(parts=[pb.PromptPart(tokens=tokens)]))
    sampling = pb.Sampling(ignore_eos=True, top_p=1.0, repeat_penalty=1.0)
    with replica.calling(pb.GenerateRequest(prompt=prompt, max_tokens=max_tokens, sampling=sampling)) as call:
        while await call.take():
            pass
