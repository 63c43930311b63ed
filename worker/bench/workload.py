"""What a speed measurement runs on the decoder, and the measuring itself.

Called by the commands of this package. It needs nothing of the decoder but `forward`. Invariant: every repetition of a
trial makes the same calls on the same tokens.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from worker.model.decoder import BLOCK_SIZE

Ints = NDArray[np.int32]
Clock = Callable[[], int]  # nanoseconds


class Forward(Protocol):
    """What of the decoder is measured."""

    vocab_size: int

    def forward(
        self, tokens: Ints, starts: Ints, contexts: Ints, blocks: Ints, logit_rows: Ints
    ) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Trial:
    """Prompts of some sequences together, behind `depth` tokens of context each, and then a generation."""

    num_prompt: int
    num_generated: int
    depth: int = 0
    num_parallel: int = 1
    num_batch: int = 2048
    num_ubatch: int = 512

    @property
    def name(self) -> str:
        """As llama-bench calls it; `num_parallel` it does not know."""
        counts = {"pp": self.num_prompt, "tg": self.num_generated}
        test = "+".join(f"{kind}{count}" for kind, count in counts.items() if count)
        return f"{test} @ d{self.depth}" if self.depth else test

    @property
    def num_tokens(self) -> int:
        """Computed in one repetition, without the depth."""
        return (self.num_prompt + self.num_generated) * self.num_parallel

    @property
    def step_tokens(self) -> int:
        """Tokens in one step, at most."""
        return max(min(self.num_batch, self.num_ubatch), self.num_parallel)

    @property
    def num_positions(self) -> int:
        """Of one sequence."""
        return self.depth + self.num_prompt + self.num_generated

    @property
    def num_blocks(self) -> int:
        """Of one sequence."""
        return -(-self.num_positions // BLOCK_SIZE)


class Workload:
    """One trial on one decoder. Sequence s owns the blocks [s * num_blocks, (s + 1) * num_blocks)."""

    def __init__(self, decoder: Forward, trial: Trial) -> None:
        self._decoder = decoder
        self._trial = trial
        num, random = trial.num_parallel, np.random.default_rng(0)
        self._tokens = random.integers(0, decoder.vocab_size, (num, trial.num_positions), dtype=np.int32)
        self._blocks = np.arange(num * trial.num_blocks, dtype=np.int32).reshape(num, -1)

    def fill_context(self) -> None:
        """Repetitions overwrite what follows the depth, so once is enough."""
        self._read(0, self._trial.depth)

    def warm_up(self) -> None:
        """The prompt, and a single step of the generation."""
        self.read_prompts()
        self.generate(min(1, self._trial.num_generated))

    def read_prompts(self) -> None:
        """In steps that may hold several sequences, with the logits of each one's last token."""
        self._read(self._trial.depth, self._trial.depth + self._trial.num_prompt)

    def generate(self, num_steps: int) -> None:
        """One token of every sequence a step, with its logits."""
        rows = np.arange(self._trial.num_parallel + 1, dtype=np.int32)
        begin = self._trial.depth + self._trial.num_prompt
        for position in range(begin, begin + num_steps):
            tokens = np.ascontiguousarray(self._tokens[:, position])
            contexts = np.full(self._trial.num_parallel, position, np.int32)
            self._decoder.forward(tokens, rows, contexts, self._blocks, rows[:-1])

    def _read(self, begin: int, end: int) -> None:
        """Positions [begin, end) of every sequence, one sequence behind the other."""
        length = end - begin
        total = length * self._trial.num_parallel
        for first in range(0, total, self._trial.step_tokens):
            places = np.arange(first, min(first + self._trial.step_tokens, total), dtype=np.int32)
            sequences, offsets = np.divmod(places, np.int32(length))
            present, starts = np.unique(sequences, return_index=True)
            self._decoder.forward(
                self._tokens[sequences, begin + offsets],
                np.append(starts, len(places)).astype(np.int32),
                np.int32(begin) + offsets[starts],
                self._blocks[present],
                np.flatnonzero(offsets == length - 1).astype(np.int32),
            )


def measure(
    decoder: Forward, trial: Trial, num_repetitions: int, warm_up: bool = True, clock: Clock = time.perf_counter_ns
) -> list[int]:
    """Nanoseconds of each repetition, prompt and generation together."""
    workload = Workload(decoder, trial)
    workload.fill_context()
    if warm_up:
        workload.warm_up()
    samples = []
    for _ in range(num_repetitions):
        begin = clock()
        workload.read_prompts()
        workload.generate(trial.num_generated)
        samples.append(clock() - begin)
    return samples


def measure_phases(decoder: Forward, trial: Trial, clock: Clock = time.perf_counter_ns) -> tuple[int, int]:
    """Nanoseconds of the prompts, and of the generation, once."""
    workload = Workload(decoder, trial)
    workload.fill_context()
    begin = clock()
    workload.read_prompts()
    middle = clock()
    workload.generate(trial.num_generated)
    return middle - begin, clock() - middle
