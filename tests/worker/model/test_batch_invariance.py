"""A token's logits are the same bits whatever else is in the step, however the prompt is cut, on any number of threads.

The truth is a decoder with one thread that computes one token at a time. Random schedules are compared with it: other
sequences in the same step, chunks of all sizes, used cache blocks in any order, any rows of logits in any order.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures_gguf import write_tiny_llama
from tests.tiny_models import MODELS, write_model
from tests.worker.model.models import (
    NUM_BLOCKS,
    Running,
    Step,
    all_logits,
    blocks_for,
    loaded,
    logits_one_by_one,
    random_tokens,
)
from worker.model.decoder import Decoder

WRITERS: dict[str, Callable[[Path], Path]] = {
    "quantised": partial(write_tiny_llama, quant="Q4_1", embedding_quant="Q8_0"),
    "floats and codes": partial(
        write_tiny_llama, quant="F16", embedding_quant="Q8_0", width=96, heads=3, kv_heads=1, feed_forward=160
    ),
    "windows": partial(write_model, model=MODELS["gemma3, windows in turn"], quant="Q8_0"),
    "caps": partial(write_model, model=MODELS["gemma2"], quant="Q4_0"),
    "experts": partial(write_model, model=MODELS["qwen3moe"], quant="Q4_1"),
    "experts of floats": partial(write_model, model=MODELS["mixtral"], quant="F16"),
}
PROMPTS = [random_tokens(length, seed=length) for length in (1, 5, 16, 33, 50, 140, 2, 4)]
SEEDS = range(8)


@pytest.fixture(scope="module", params=WRITERS.values(), ids=WRITERS)
def path(request, tmp_path_factory) -> Path:
    return request.param(tmp_path_factory.mktemp("invariance") / "model.gguf")


@pytest.fixture(scope="module")
def truth(path) -> list[np.ndarray]:
    """Of each prompt: (tokens, vocab)."""
    with loaded(path) as decoder:
        return [logits_one_by_one(decoder, tokens) for tokens in PROMPTS]


@pytest.fixture(scope="module", params=[1, 2, 3, 4], ids=lambda n: f"{n} threads")
def decoder(request, path) -> Iterator[Decoder]:
    with loaded(path, request.param) as decoder:
        yield decoder


def random_schedule(rng: np.random.Generator, sequences: list[Running]) -> Iterator[Step]:
    """Steps until all is computed: each takes some of the sequences in random order, and a chunk of each."""
    while unfinished := [s for s in sequences if s.num_computed < len(s.tokens)]:
        step = Step()
        for index in rng.permutation(len(unfinished))[: rng.integers(1, len(unfinished) + 1)]:
            sequence = unfinished[index]
            rest = len(sequence.tokens) - sequence.num_computed
            count = min(rest, int(rng.choice([1, 1, 2, 3, 4, 7, 13, 40, 140])))
            positions = sequence.num_computed + rng.permutation(count)
            step.add(sequence, count, positions[: rng.integers(0, count + 1)].tolist())
        yield step


def check_schedule(decoder: Decoder, truth: list[np.ndarray], seed: int) -> None:
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(PROMPTS), rng.integers(1, 6))
    free = rng.permutation(NUM_BLOCKS).tolist()
    sequences, expected = [], {}
    for prompt in chosen:
        count = len(blocks_for(len(PROMPTS[prompt])))
        blocks, free = free[:count], free[count:]
        sequences.append(Running(PROMPTS[prompt], blocks))
        expected[id(sequences[-1])] = truth[prompt]
    for step in random_schedule(rng, sequences):
        rows = [expected[id(sequence)][position] for sequence, _, wanted in step.parts for position in wanted]
        np.testing.assert_array_equal(step.compute(decoder), np.array(rows, np.float32).reshape(len(rows), 384))


@pytest.mark.parametrize("seed", SEEDS)
def test_any_schedule_gives_the_bits_of_one_token_at_a_time(decoder, truth, seed):
    check_schedule(decoder, truth, seed)


@pytest.mark.parametrize("kv_types", [("f32", "bf16"), ("q8_0", "q4_0"), ("q4_0", "q8_0")], ids=str)
def test_any_schedule_gives_the_same_bits_with_every_type_of_cache(tmp_path, kv_types):
    path = write_tiny_llama(tmp_path / "model.gguf", quant="Q4_1", embedding_quant="Q8_0", heads=2, kv_heads=1)
    settings = {"kv_type_k": kv_types[0], "kv_type_v": kv_types[1]}
    with loaded(path, **settings) as alone:
        truth = [logits_one_by_one(alone, tokens) for tokens in PROMPTS]
    with loaded(path, 2, **settings) as decoder:
        for seed in SEEDS:
            check_schedule(decoder, truth, seed)


def test_a_whole_prompt_in_one_step_gives_the_bits_of_one_token_at_a_time(decoder, truth):
    for tokens, expected in zip(PROMPTS, truth, strict=True):
        np.testing.assert_array_equal(all_logits(decoder, tokens), expected)


@pytest.mark.parametrize(("num_threads", "num_batch_threads"), [(1, 3), (3, 1), (2, 4)])
def test_prompts_and_answers_on_different_numbers_of_threads_give_the_same_bits(
    path, truth, num_threads, num_batch_threads
):
    with loaded(path, num_threads, num_batch_threads=num_batch_threads) as decoder:
        assert len(decoder.thread_ids) == max(num_threads, num_batch_threads) - 1
        for tokens, expected in zip(PROMPTS, truth, strict=True):
            np.testing.assert_array_equal(logits_one_by_one(decoder, tokens), expected)
            np.testing.assert_array_equal(all_logits(decoder, tokens), expected)


def test_a_prefix_in_shared_blocks_gives_the_bits_of_a_prefix_of_ones_own(decoder, truth):
    tokens, expected = PROMPTS[4], truth[4]
    first = Running(tokens, [5, 9, 7, 3])
    whole = Step()
    whole.add(first, len(tokens), [])
    whole.compute(decoder)
    sharers = [Running(tokens, [5, 9, 20, 21], 32), Running(tokens, [5, 30, 31, 32], 16)]
    step = Step()
    for sequence in sharers:
        step.add(sequence, len(tokens) - sequence.num_computed, range(sequence.num_computed, len(tokens)))
    np.testing.assert_array_equal(step.compute(decoder), np.concatenate([expected[32:], expected[16:]]))
