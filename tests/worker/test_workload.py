"""Speed measurements make the calls they claim to make, and only those."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worker.model.decoder import BLOCK_SIZE
from worker.workload import Ints, Trial, measure

PROMPT = Trial(num_prompt=100, num_generated=0, depth=0, num_parallel=1, num_batch=2048, num_ubatch=40)
GENERATION = Trial(num_prompt=0, num_generated=3, depth=0, num_parallel=1, num_batch=2048, num_ubatch=512)


@dataclass
class Call:
    num_tokens: int
    contexts: list[int]
    starts: list[int]
    rows: list[int]
    blocks: list[list[int]]
    tokens: list[int]


@dataclass
class Recorder:
    """A decoder that computes nothing, and a clock that one of its calls moves by one."""

    vocab_size: int = 50
    calls: list[Call] = field(default_factory=list)

    def forward(
        self, tokens: Ints, starts: Ints, contexts: Ints, blocks: Ints, logit_rows: Ints
    ) -> NDArray[np.float32]:
        assert all(array.dtype == np.int32 for array in (tokens, starts, contexts, blocks, logit_rows))
        assert all(array.flags.c_contiguous for array in (tokens, starts, contexts, blocks, logit_rows))
        assert tokens.min() >= 0
        assert tokens.max() < self.vocab_size
        self.calls.append(
            Call(len(tokens), contexts.tolist(), starts.tolist(), logit_rows.tolist(), blocks.tolist(), tokens.tolist())
        )
        return np.zeros((len(logit_rows), self.vocab_size), np.float32)

    def clock(self) -> int:
        return len(self.calls)


def run(trial: Trial, num_repetitions: int = 1) -> tuple[Recorder, list[int]]:
    recorder = Recorder()
    return recorder, measure(recorder, trial, num_repetitions, recorder.clock)


def test_a_prompt_is_read_in_chunks_with_the_logits_of_each_last_token() -> None:
    recorder, _ = run(PROMPT)
    timed = recorder.calls[3:]
    assert [call.num_tokens for call in timed] == [40, 40, 20]
    assert [call.contexts for call in timed] == [[0], [40], [80]]
    assert [call.rows for call in timed] == [[39], [39], [19]]


def test_generation_computes_one_token_a_step_with_its_logits() -> None:
    recorder, _ = run(GENERATION)
    timed = recorder.calls[1:]
    assert [call.num_tokens for call in timed] == [1, 1, 1]
    assert [call.contexts for call in timed] == [[0], [1], [2]]
    assert all(call.rows == [0] for call in timed)


def test_sequences_generating_together_share_steps_but_no_blocks() -> None:
    trial = Trial(0, 2, depth=BLOCK_SIZE, num_parallel=3, num_batch=2048, num_ubatch=512)
    recorder, _ = run(trial)
    step = recorder.calls[-1]
    assert step.starts == [0, 1, 2, 3]
    assert step.rows == [0, 1, 2]
    assert step.contexts == [BLOCK_SIZE + 1] * 3
    used = [block for sequence in step.blocks for block in sequence]
    assert len(used) == len(set(used)) == 3 * trial.num_blocks
    assert max(used) < trial.num_parallel * trial.num_blocks


def test_the_context_before_the_depth_is_read_once_and_not_timed() -> None:
    trial = Trial(0, 2, depth=5, num_parallel=1, num_batch=2048, num_ubatch=512)
    recorder, samples = run(trial, num_repetitions=4)
    assert [call.num_tokens for call in recorder.calls].count(5) == 1
    assert samples == [2, 2, 2, 2]


def test_every_repetition_makes_the_same_calls() -> None:
    recorder, samples = run(PROMPT, num_repetitions=3)
    assert samples == [3, 3, 3]
    warm_up, *repetitions = [recorder.calls[i : i + 3] for i in range(0, 12, 3)]
    assert all(repetition == warm_up for repetition in repetitions)


def test_blocks_suffice_for_every_position() -> None:
    for num in (1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1):
        trial = Trial(0, num, depth=7, num_parallel=1, num_batch=1, num_ubatch=1)
        assert 0 <= trial.num_blocks * BLOCK_SIZE - (7 + num) < BLOCK_SIZE


def test_names_and_counts_are_those_of_the_field() -> None:
    assert PROMPT.name == "pp100"
    assert PROMPT.num_tokens == 100
    assert GENERATION.name == "tg3"
    together = Trial(0, 128, depth=512, num_parallel=16, num_batch=2048, num_ubatch=512)
    assert together.name == "tg128 x16 @ d512"
    assert together.num_tokens == 128 * 16
