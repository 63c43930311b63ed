"""Arrays that a step's arguments are laid out in, kept from step to step. The engine fills them for the model."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from worker.batch import Batch
from worker.drafting.drafts import NOTHING
from worker.sequence import Sequence

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]


class StepInputs:
    """tokens   [ sequence 0 ..., drafts | sequence 1 ..., drafts | ... )     starts = where each begins, and the end"""

    def __init__(self, max_sequences: int, max_tokens: int, max_blocks: int, max_logits: int) -> None:
        """`max_blocks`: of one sequence; `max_logits`: tokens whose logits are wanted."""
        self._tokens = np.zeros(max_tokens, np.int32)
        self._starts = np.zeros(max_sequences + 1, np.int32)
        self._contexts = np.zeros(max_sequences, np.int32)
        self._blocks = np.zeros((max_sequences, max_blocks), np.int32)
        self._logit_rows = np.zeros(max_logits, np.int32)
        self._num_rows: list[int] = []  # of logits, of each sequence

    def fill(self, batch: Batch) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
        """Arguments of `forward`, valid until the next call.

        Logits are wanted where a sequence catches up, of its drafts, and where prompts are scored.
        """
        self._num_rows = [
            sequence.num_logit_rows(count) + batch.drafts.get(sequence, NOTHING).size
            for sequence, count in zip(batch.sequences, batch.counts, strict=True)
        ]
        num_rows = end = 0
        for i, (sequence, count) in enumerate(zip(batch.sequences, batch.counts, strict=True)):
            first, last = sequence.num_computed, sequence.num_computed + count
            self._tokens[end : end + count] = sequence.tokens[first:last]
            self._contexts[i] = first
            self._blocks[i, : sequence.num_blocks] = sequence.blocks[: sequence.num_blocks]
            end += count
            drafts = batch.drafts.get(sequence, NOTHING)
            self._tokens[end : end + drafts.size] = drafts
            end += drafts.size
            self._starts[i + 1] = end
            wanted = self._num_rows[i]
            self._logit_rows[num_rows : num_rows + wanted] = range(end - wanted, end)
            num_rows += wanted
        num = len(batch.sequences)
        return (
            self._tokens[:end], self._starts[: num + 1], self._contexts[:num],
            self._blocks[:num], self._logit_rows[:num_rows],
        )  # fmt: skip

    def split(self, batch: Batch, logits: FloatArray) -> Iterator[tuple[Sequence, FloatArray]]:
        """The batch's sequences, each with its rows of what `forward` gave, which may be none."""
        end = 0
        for sequence, count in zip(batch.sequences, self._num_rows, strict=True):
            yield sequence, logits[end : end + count]
            end += count
