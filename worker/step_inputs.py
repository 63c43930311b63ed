"""Arrays that a step's arguments are laid out in, kept from step to step. The engine fills them for the model."""

import numpy as np
import numpy.typing as npt

from worker.scheduler import Batch

IntArray = npt.NDArray[np.int32]


class StepInputs:
    """tokens   [ sequence 0 ... | sequence 1 ... | ... )     starts = 0, count 0, count 0 + count 1, ..."""

    def __init__(self, max_sequences: int, max_tokens: int, max_blocks: int) -> None:
        """`max_blocks`: of one sequence."""
        self._tokens = np.zeros(max_tokens, np.int32)
        self._starts = np.zeros(max_sequences + 1, np.int32)
        self._contexts = np.zeros(max_sequences, np.int32)
        self._blocks = np.zeros((max_sequences, max_blocks), np.int32)
        self._logit_rows = np.zeros(max_sequences, np.int32)

    def fill(self, batch: Batch) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
        """Arguments of `forward`, valid until the next call. Logits are wanted where a sequence catches up."""
        num_rows = end = 0
        for i, (sequence, count) in enumerate(zip(batch.sequences, batch.counts, strict=True)):
            first, last = sequence.num_computed, sequence.num_computed + count
            self._tokens[end : end + count] = sequence.tokens[first:last]
            self._contexts[i] = first
            self._blocks[i, : sequence.num_blocks] = sequence.blocks[: sequence.num_blocks]
            end += count
            self._starts[i + 1] = end
            if last == sequence.num_tokens:
                self._logit_rows[num_rows] = end - 1
                num_rows += 1
        num = len(batch.sequences)
        return (
            self._tokens[:end], self._starts[: num + 1], self._contexts[:num],
            self._blocks[:num], self._logit_rows[:num_rows],
        )  # fmt: skip
