"""Tiny models loaded for a test, with their packed weights in the test's folder, and steps for them to compute."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.config import WorkerConfig
from worker.gguf import GGUF
from worker.model.decoder import BLOCK_SIZE, Decoder
from worker.model.load import load_model

NUM_BLOCKS = 64
MAX_TOKENS = 400
MAX_ROWS = 400


def load(path: Path, num_threads: int = 1, *, cache: Path | None = None, **settings: Any) -> Decoder:
    """Packs into `cache`, or beside the model. Kernels come from the user's cache."""
    config = WorkerConfig(path, listen="", num_threads=num_threads, **settings)
    with GGUF.open(path) as gguf, pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.model.load.cache_folder", lambda: cache or path.parent / "cache")
        return load_model(gguf, config, lambda stage, done: None)


@contextmanager
def loaded(path: Path, num_threads: int = 1, *, cache: Path | None = None, **settings: Any) -> Iterator[Decoder]:
    """A decoder with its cache reserved; `settings` as in WorkerConfig."""
    decoder = load(path, num_threads, cache=cache, **settings)
    decoder.reserve(NUM_BLOCKS, MAX_TOKENS, MAX_ROWS)
    try:
        yield decoder
    finally:
        decoder.close()


@dataclass
class Running:
    """A sequence: all its tokens, its cache blocks, and how many tokens have been computed."""

    tokens: Sequence[int]
    blocks: Sequence[int]
    num_computed: int = 0


@dataclass
class Step:
    """Parts of sequences to compute together, and the logits wanted of each."""

    parts: list[tuple[Running, int, list[int]]] = field(default_factory=list)

    def add(self, sequence: Running, count: int, wanted: Sequence[int]) -> None:
        """`count` more tokens; wanted: positions among them, in the order in which their logits are to come."""
        self.parts.append((sequence, count, list(wanted)))

    def compute(self, decoder: Decoder) -> NDArray[np.float32]:
        tokens, starts, rows = [], [0], []
        blocks = np.zeros((len(self.parts), max(len(sequence.blocks) for sequence, _, _ in self.parts)), np.int32)
        for index, (sequence, count, wanted) in enumerate(self.parts):
            rows += [starts[-1] + position - sequence.num_computed for position in wanted]
            tokens += sequence.tokens[sequence.num_computed : sequence.num_computed + count]
            starts.append(len(tokens))
            blocks[index, : len(sequence.blocks)] = sequence.blocks
        contexts = [sequence.num_computed for sequence, _, _ in self.parts]
        logits = decoder.forward(*(np.array(a, np.int32) for a in (tokens, starts, contexts)), blocks,
                                 np.array(rows, np.int32))  # fmt: skip
        for sequence, count, _ in self.parts:
            sequence.num_computed += count
        return logits.copy()


def blocks_for(num_tokens: int) -> list[int]:
    return list(range(-(-num_tokens // BLOCK_SIZE)))


def all_logits(decoder: Decoder, tokens: Sequence[int]) -> NDArray[np.float32]:
    """(tokens, vocab) in one step."""
    step = Step()
    step.add(Running(list(tokens), blocks_for(len(tokens))), len(tokens), range(len(tokens)))
    return step.compute(decoder)


def logits_one_by_one(decoder: Decoder, tokens: Sequence[int]) -> NDArray[np.float32]:
    """(tokens, vocab), each token in a step of its own."""
    sequence, rows = Running(list(tokens), blocks_for(len(tokens))), []
    for position in range(len(tokens)):
        step = Step()
        step.add(sequence, 1, [position])
        rows.append(step.compute(decoder))
    return np.concatenate(rows)


def random_tokens(count: int, seed: int = 0, vocab_size: int = 384) -> list[int]:
    tokens: list[int] = np.random.default_rng(seed).integers(0, vocab_size, count).tolist()
    return tokens
