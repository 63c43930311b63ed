"""Speed measurements make the calls they claim to make, and only those."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worker.bench.workload import Ints, Trial, measure, measure_phases
from worker.model.decoder import BLOCK_SIZE

PROMPT = Trial(num_prompt=100, num_generated=0, num_ubatch=40)
GENERATION = Trial(num_prompt=0, num_generated=3)
TOGETHER = Trial(num_prompt=10, num_generated=2, depth=BLOCK_SIZE, num_parallel=3, num_ubatch=16)


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


def run(trial: Trial, num_repetitions: int = 1, warm_up: bool = True) -> tuple[Recorder, list[int]]:
    recorder = Recorder()
    return recorder, measure(recorder, trial, num_repetitions, warm_up, recorder.clock)


def test_a_prompt_is_read_in_steps_with_the_logits_of_its_last_token() -> None:
    recorder, _ = run(PROMPT)
    timed = recorder.calls[3:]
    assert [call.num_tokens for call in timed] == [40, 40, 20]
    assert [call.contexts for call in timed] == [[0], [40], [80]]
    assert [call.rows for call in timed] == [[], [], [19]]


def test_generation_computes_one_token_a_step_with_its_logits() -> None:
    recorder, _ = run(GENERATION)
    timed = recorder.calls[1:]
    assert [call.num_tokens for call in timed] == [1, 1, 1]
    assert [call.contexts for call in timed] == [[0], [1], [2]]
    assert all(call.rows == [0] for call in timed)


def test_a_generation_goes_on_behind_its_prompt() -> None:
    recorder, samples = run(Trial(num_prompt=5, num_generated=2))
    assert [(call.num_tokens, call.contexts) for call in recorder.calls[2:]] == [(5, [0]), (1, [5]), (1, [6])]
    assert samples == [3]


def test_prompts_read_together_share_steps_but_no_blocks() -> None:
    recorder = Recorder()
    measure_phases(recorder, TOGETHER, recorder.clock)
    read = recorder.calls[3:5]
    assert [call.starts for call in read] == [[0, 10, 16], [0, 4, 14]]
    assert [call.contexts for call in read] == [[BLOCK_SIZE, BLOCK_SIZE], [BLOCK_SIZE + 6, BLOCK_SIZE]]
    assert [call.rows for call in read] == [[9], [3, 13]]
    assert [[blocks[0] for blocks in call.blocks] for call in read] == [[0, 2], [2, 4]]


def test_every_token_of_every_sequence_is_read_at_its_own_place() -> None:
    recorder = Recorder()
    measure_phases(recorder, TOGETHER, recorder.clock)
    seen: dict[tuple[int, int], int] = {}
    for call in recorder.calls:
        for i, (first, context) in enumerate(zip(call.starts, call.contexts, strict=False)):
            for offset in range(call.starts[i + 1] - first):
                place = (call.blocks[i][0], context + offset)
                assert place not in seen
                seen[place] = call.tokens[first + offset]
    assert len(seen) == TOGETHER.num_parallel * TOGETHER.num_positions


def test_sequences_generating_together_share_steps_but_no_blocks() -> None:
    trial = Trial(0, 2, depth=BLOCK_SIZE, num_parallel=3)
    recorder, _ = run(trial)
    step = recorder.calls[-1]
    assert step.starts == [0, 1, 2, 3]
    assert step.rows == [0, 1, 2]
    assert step.contexts == [BLOCK_SIZE + 1] * 3
    used = [block for sequence in step.blocks for block in sequence]
    assert len(used) == len(set(used)) == 3 * trial.num_blocks
    assert max(used) < trial.num_parallel * trial.num_blocks


def test_prompts_and_generation_are_timed_apart() -> None:
    recorder = Recorder()
    assert measure_phases(recorder, TOGETHER, recorder.clock) == (2, 2)


def test_the_context_before_the_depth_is_read_once_and_not_timed() -> None:
    recorder, samples = run(Trial(0, 2, depth=5), num_repetitions=4)
    assert [call.num_tokens for call in recorder.calls].count(5) == 1
    assert samples == [2, 2, 2, 2]


def test_every_repetition_makes_the_same_calls() -> None:
    recorder, samples = run(PROMPT, num_repetitions=3)
    assert samples == [3, 3, 3]
    warm_up, *repetitions = [recorder.calls[i : i + 3] for i in range(0, 12, 3)]
    assert all(repetition == warm_up for repetition in repetitions)


def test_a_warm_up_can_be_left_out() -> None:
    recorder, samples = run(PROMPT, warm_up=False)
    assert samples == [3]
    assert len(recorder.calls) == 3


def test_blocks_suffice_for_every_position() -> None:
    for num in (1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1):
        trial = Trial(2, num, depth=7)
        assert 0 <= trial.num_blocks * BLOCK_SIZE - (7 + 2 + num) < BLOCK_SIZE


def test_names_and_counts_are_those_of_the_field() -> None:
    assert PROMPT.name == "pp100"
    assert PROMPT.num_tokens == 100
    assert GENERATION.name == "tg3"
    assert Trial(512, 128, depth=4096).name == "pp512+tg128 @ d4096"
    assert Trial(64, 128, num_parallel=16).num_tokens == (64 + 128) * 16
