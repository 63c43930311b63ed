"""What a speed measurement runs on the decoder, and the measuring itself.

Called by bench.py. It needs nothing of the decoder but `forward`. Invariant: every repetition of a trial makes the
same calls on the same tokens, after one warm-up.
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
    """One row of the report: either a prompt or a generation, behind `depth` tokens of context."""

    num_prompt: int
    num_generated: int
    depth: int
    num_parallel: int  # sequences generating together; a prompt is always one
    num_batch: int
    num_ubatch: int

    @property
    def name(self) -> str:
        kind = f"pp{self.num_prompt}" if self.num_prompt else f"tg{self.num_generated}"
        parallel = f" x{self.num_parallel}" if self.num_parallel > 1 else ""
        return kind + parallel + (f" @ d{self.depth}" if self.depth else "")

    @property
    def num_tokens(self) -> int:
        return self.num_prompt or self.num_generated * self.num_parallel

    @property
    def chunk(self) -> int:
        """Prompt tokens in one step, at most."""
        return min(self.num_batch, self.num_ubatch)

    @property
    def num_blocks(self) -> int:
        """Of one sequence."""
        return -(-(self.depth + self.num_prompt + self.num_generated) // BLOCK_SIZE)


class Workload:
    """One trial on one decoder. Sequence s owns the blocks [s * num_blocks, (s + 1) * num_blocks)."""

    def __init__(self, decoder: Forward, trial: Trial) -> None:
        self._decoder = decoder
        self._trial = trial
        num_each = trial.depth + trial.num_prompt + trial.num_generated
        random = np.random.default_rng(0)
        self._tokens = random.integers(0, decoder.vocab_size, (trial.num_parallel, num_each), dtype=np.int32)
        self._blocks = np.arange(trial.num_parallel * trial.num_blocks, dtype=np.int32).reshape(trial.num_parallel, -1)

    def prepare(self) -> None:
        """Fills the context and warms up. Repetitions overwrite what follows the depth, so once is enough."""
        for sequence in range(self._trial.num_parallel):
            self._read(sequence, 0, self._trial.depth)
        self._run(1)

    def run(self) -> None:
        self._run(self._trial.num_generated)

    def _run(self, num_steps: int) -> None:
        depth = self._trial.depth
        if self._trial.num_prompt:
            self._read(0, depth, depth + self._trial.num_prompt)
            return
        for position in range(depth, depth + num_steps):
            self._step(position)

    def _read(self, sequence: int, begin: int, end: int) -> None:
        """Positions [begin, end) of one sequence, in chunks."""
        for position in range(begin, end, self._trial.chunk):
            tokens = self._tokens[sequence, position : min(position + self._trial.chunk, end)]
            self._decoder.forward(
                tokens,
                np.array([0, len(tokens)], np.int32),
                np.array([position], np.int32),
                self._blocks[sequence : sequence + 1],
                np.array([len(tokens) - 1], np.int32),
            )

    def _step(self, position: int) -> None:
        """One token of every sequence."""
        num = self._trial.num_parallel
        rows = np.arange(num + 1, dtype=np.int32)
        tokens = np.ascontiguousarray(self._tokens[:, position])
        self._decoder.forward(tokens, rows, np.full(num, position, np.int32), self._blocks, rows[:-1])


def measure(decoder: Forward, trial: Trial, num_repetitions: int, clock: Clock = time.perf_counter_ns) -> list[int]:
    """Nanoseconds of each repetition."""
    workload = Workload(decoder, trial)
    workload.prepare()
    samples = []
    for _ in range(num_repetitions):
        begin = clock()
        workload.run()
        samples.append(clock() - begin)
    return samples
