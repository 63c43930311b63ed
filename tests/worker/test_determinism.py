"""A request's answer is the same bytes whatever else the engine does: the real model, random traffic, each one alone.

Traffic is cancelled, shares prefixes, is preempted and evicted by a cache that is far too small, and waits in lines;
the truth is an engine that serves one request at a time and reuses nothing.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.worker.engines import SAMPLINGS, answer, ask, engine, said, tokens
from tests.worker.fake_model import FakeDetokenizer
from tests.worker.inbox import Inbox
from worker.context import Capacity
from worker.engine import Engine
from worker.generation import Finished, Logprobs, Request
from worker.model.decoder import BLOCK_SIZE
from worker.sampling.settings import Sampling

CONTEXT = 256
ALONE = Capacity(CONTEXT, CONTEXT // BLOCK_SIZE, BLOCK_SIZE, max_running=1, max_waiting=100, step_tokens=CONTEXT)
TOO_SMALL = Capacity(CONTEXT, 18, BLOCK_SIZE, max_running=6, max_waiting=100, step_tokens=64, step_seconds=1e-9)
DRAFTING = Capacity(CONTEXT, 40, BLOCK_SIZE, max_running=3, max_waiting=100, step_tokens=64, max_drafts=5)


def until_stored(folder: Path, num_blocks: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*/*.kv"))) < num_blocks:
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Traffic:
    """Random requests, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.stems = [tokens(100, seed), tokens(100, seed)[:50] + tokens(50, seed + 1), tokens(40, seed + 2)]

    def request(self) -> tuple[list[int], dict[str, Any]]:
        dice = self.dice
        stem = dice.choice(self.stems)
        prompt = stem[: dice.randint(1, len(stem))] + tokens(dice.randint(0, 20), dice.randrange(1000))
        return prompt, {
            "sampling": replace(dice.choice(SAMPLINGS), seed=dice.randrange(1 << 32)),
            "logprobs": dice.choice(
                [None, None, Logprobs(2), Logprobs(3, after_sampling=True), Logprobs(1, False, True)]
            ),
            "max_tokens": dice.choice([1, 4, 12, 40]),
            "cache_prompt": dice.random() < 0.8,
            "client": dice.choice("abc"),
            "priority": dice.randrange(10),
        }


@pytest.fixture(scope="module")
def alone() -> Iterator[Engine]:
    with engine(ALONE, num_threads=2) as running:
        yield running


@pytest.mark.parametrize("num_threads", [1, 2])
def test_each_request_of_random_traffic_gets_the_answer_it_gets_alone(alone, num_threads, tmp_path):
    traffic, served = Traffic(num_threads), []
    with engine(TOO_SMALL, num_threads, tmp_path if num_threads == 2 else None) as busy:
        for _ in range(24):
            prompt, request = traffic.request()
            inbox = Inbox()
            generation = busy.submit(Request(prompt, detokenizer=FakeDetokenizer(), **request), inbox.put)
            if traffic.dice.random() < 0.2:
                num_events = traffic.dice.randint(0, 3)
                inbox.wait_for(lambda i, n=num_events: len(i.events) >= n or i.has_ended)
                busy.cancel(generation)
            else:
                served.append((inbox, prompt, request))
        results = [inbox.result() for inbox, _, _ in served]
        stats = busy.stats()
    assert all(isinstance(result, Finished) for result in results)
    assert stats.num_free_blocks + stats.num_cached_blocks == stats.num_blocks
    for inbox, prompt, request in served:
        assert said(inbox) == said(answer(alone, prompt, **request | {"cache_prompt": False}))


def test_a_cache_that_is_off_cold_hot_evicted_or_from_disk_changes_no_token(alone, tmp_path):
    prompt = tokens(150, 9)
    request: dict[str, Any] = {"sampling": Sampling(5), "max_tokens": 12}
    truth = answer(alone, prompt, **request, cache_prompt=False).tokens
    with engine(TOO_SMALL, 2, tmp_path) as cached:
        for num_cached, before in ((0, 0), (144, 0), (144, 5)):  # cold; hot; evicted by five others and read from disk
            for number in range(before):
                answer(cached, tokens(200, 20 + number), **request | {"max_tokens": 1})
            inbox = answer(cached, prompt, **request)
            until_stored(tmp_path, 150 // BLOCK_SIZE)
            assert (inbox.result().num_cached_tokens, inbox.tokens) == (num_cached, truth)
    with engine(TOO_SMALL, 1) as other:
        for number in range(3):  # evicted, and computed again
            answer(other, prompt, **request)
            answer(other, tokens(240, 30 + number), **request | {"max_tokens": 1})
        inbox = answer(other, prompt, **request)
        assert inbox.result().num_cached_tokens < 144
        assert inbox.tokens == truth


@pytest.mark.parametrize(("num_threads", "guesses"), [(1, False), (2, False), (2, True)])
def test_tokens_guessed_ahead_change_no_token_and_no_probability(alone, num_threads, guesses):
    phrase, other = tokens(20, 40), tokens(90, 41)
    prompts = [phrase * 4, other, phrase * 3 + other[:30] + phrase, other[:17] * 5]
    requests = [
        (prompt, {"sampling": Sampling(seed, temperature=temperature), "max_tokens": 48, "logprobs": Logprobs(2)})
        for seed, prompt in enumerate(prompts)
        for temperature in (0.0, 0.7)
    ]
    with engine(DRAFTING, num_threads, guesses=guesses) as drafting:
        inboxes = [Inbox() for _ in requests]
        for (prompt, request), inbox in zip(requests, inboxes, strict=True):
            drafting.submit(Request(prompt, detokenizer=FakeDetokenizer(), **request), inbox.put)
        results = [inbox.result() for inbox in inboxes]
    assert sum(result.num_accepted for result in results) > 40
    assert sum(result.num_drafted - result.num_accepted for result in results) > 5
    for (prompt, request), inbox in zip(requests, inboxes, strict=True):
        assert inbox.events[1:-1] == answer(alone, prompt, **request).events[1:-1]


@pytest.mark.parametrize("shifts", [False, True], ids=["in the context", "outgrowing it"])
def test_an_answer_cut_anywhere_goes_on_elsewhere_as_if_nothing_had_happened(shifts):
    """What every sampler remembers goes along, to a worker that guesses ahead, on one thread, with others beside it."""
    whole = replace(ALONE, context_length=64, shifts_context=shifts)
    other = replace(TOO_SMALL, context_length=64, num_blocks=9, max_drafts=5, shifts_context=shifts)
    prompt, num_tokens, dice = tokens(6, 50) * 5, 48 if shifts else 30, random.Random(1)
    wanted: dict[str, Any] = {"max_tokens": num_tokens, "logprobs": Logprobs(1), "num_kept": 4}
    with engine(whole, num_threads=2) as first, engine(other, num_threads=1) as second:
        for sampling in SAMPLINGS:
            begun = said(answer(first, prompt, sampling=sampling, **wanted))[0]
            at_the_shift = min(64 - len(prompt), len(begun) - 1)
            cuts = [*dice.sample(range(1, len(begun)), 3), at_the_shift]
            rests = [
                ask(
                    second,
                    prompt,
                    sampling=sampling,
                    resumed=[token.token for token in begun[:cut]],
                    memory=begun[cut - 1].memory,
                    **wanted,
                )
                for cut in cuts
            ]
            for cut, rest in zip(cuts, rests, strict=True):
                rest.result()
                assert said(rest)[0] == begun[cut:], sampling
        stats = second.stats()
    assert stats.accepted_tokens and stats.num_free_blocks + stats.num_cached_blocks == stats.num_blocks
