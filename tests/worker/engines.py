"""Engines with the real model, and requests to them with every sampler that there is."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.models import smollm2
from tests.worker.fake_model import FakeDetokenizer
from tests.worker.inbox import Inbox
from worker.cache.prefix_store import PrefixStore
from worker.config import DraftConfig, WorkerConfig
from worker.context import Capacity
from worker.cores.lease import OwnCores
from worker.drafting.draft_load import load_draft
from worker.engine import Engine
from worker.generation import PromptScores, Request, Token
from worker.gguf import GGUF
from worker.model.load import load_model
from worker.sampler import KERNELS, Logprob
from worker.sampling.breakers import Breakers
from worker.sampling.settings import ALL_SAMPLERS, Sampling

# Among them all that samplers remember: draws, XTC's draws, Mirostat's mu, adaptive-p's mean, and the tokens before.
SAMPLINGS = [
    Sampling(1, temperature=0.0),
    Sampling(2, temperature=1.3, top_k=0, top_p=1.0, min_p=0.0),
    Sampling(3, repeat_penalty=1.3, frequency_penalty=0.3, presence_penalty=-0.2, repeat_last_n=-1),
    Sampling(4, temperature=0.0, repeat_penalty=1.1, repeat_last_n=7),
    Sampling(5, dry_multiplier=0.8, dry_allowed_length=1, dry_penalty_last_n=-1, dry_breakers=Breakers({300: [()]})),
    Sampling(6, xtc_probability=0.5, xtc_threshold=0.05, temperature=1.1),
    Sampling(7, typical_p=0.6, top_n_sigma=1.5, min_keep=3),
    Sampling(8, dynatemp_range=0.6, dynatemp_exponent=1.4),
    Sampling(9, mirostat=1, mirostat_tau=4.0),
    Sampling(10, mirostat=2, mirostat_tau=3.0, mirostat_eta=0.2),
    Sampling(11, samplers=ALL_SAMPLERS, adaptive_target=0.4, adaptive_decay=0.8, xtc_probability=0.3),
    Sampling(12, logit_bias=((260, 4.0), (28, -math.inf)), ignore_eos=True, top_k=5),
]


@contextmanager
def engine(
    capacity: Capacity, num_threads: int, store: Path | None = None, *, guesses: bool = False
) -> Iterator[Engine]:
    """`guesses`: the model is its own small model, with coarser keys and values."""
    config = WorkerConfig(smollm2(), listen="", num_threads=num_threads)
    draft = DraftConfig(config.model_path, kv_type_k="q4_0", kv_type_v="q4_0")
    with GGUF.open(config.model_path) as gguf:
        decoder = load_model(gguf, config, lambda stage, done: None, KERNELS)
        small = load_draft(draft, config, capacity, gguf, lambda stage, done: None) if guesses else None
    decoder.reserve(capacity.num_blocks, capacity.step_tokens, capacity.max_running, capacity.max_logits)

    def post(events):
        for sink, event in events:
            sink(event)

    kept = PrefixStore(store, bytes(32), 1 << 30) if store else None
    drafter = replace(small, price=0.1).drafter(OwnCores()) if small else None
    running = Engine(decoder, capacity, {2}, post, pytest.fail, kept, drafter=drafter)
    running.start()
    try:
        yield running
    finally:
        running.stop()
        decoder.close()
        if small:
            small.decoder.close()


def ask(to: Engine, prompt: list[int], **request: Any) -> Inbox:
    inbox = Inbox()
    to.submit(Request(prompt, **{"detokenizer": FakeDetokenizer()} | request), inbox.put)
    return inbox


def answer(to: Engine, prompt: list[int], **request: Any) -> Inbox:
    inbox = ask(to, prompt, **request)
    inbox.result()
    return inbox


def tokens(count: int, seed: int) -> list[int]:
    dice = random.Random(seed)
    return [dice.randrange(100, 49000) for _ in range(count)]


def said(inbox: Inbox) -> tuple[list[Token], list[Logprob]]:
    """All that an answer tells of its tokens, and of its prompt's, in whatever pieces that came."""
    scores = [logprob for event in inbox.events if isinstance(event, PromptScores) for logprob in event.logprobs]
    return [event for event in inbox.events if isinstance(event, Token)], scores
