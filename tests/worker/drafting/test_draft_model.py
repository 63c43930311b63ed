import random
from itertools import count

import numpy as np
import pytest

from tests.worker.fake_model import FakeModel
from worker.cores.lease import OwnCores
from worker.drafting.draft_model import DraftLimits, ModelDrafter
from worker.sequence import Guessing, Sequence

BLOCK = 4


class CountedCores(OwnCores):
    """Knows whether they are held."""

    held = False

    def __enter__(self) -> None:
        self.held = True

    def __exit__(self, *_: object) -> None:
        self.held = False


class Bench:
    """A drafter with a fake model."""

    def __init__(self, **changes) -> None:
        settings = {"context_length": 64, "num_blocks": 40, "max_sequences": 3, "step_tokens": 64, "step_seconds": 1e9}
        self.limits = DraftLimits(block_size=BLOCK, **settings | changes)
        self.model = FakeModel(self.limits.num_blocks, BLOCK)
        self.model.repeats = 2.0
        self.cores = CountedCores()
        self.drafter = ModelDrafter(self, self.limits, 0.1, self.cores)

    def forward(self, *arguments):
        assert self.cores.held
        return self.model.forward(*arguments)

    def propose(self, wanted) -> dict[Sequence, list[int]]:
        found = {sequence: tokens.tolist() for sequence, tokens in self.drafter.propose(wanted).items()}
        pool = self.drafter.pool
        assert pool.num_free + pool.num_cached + pool.num_held == pool.num_blocks
        assert not self.cores.held
        return found


def sequence_of(*tokens: int, shares_prefix: bool = True) -> Sequence:
    return Sequence(tokens, (), 10_000, shares_prefix=shares_prefix)


def extend(sequence: Sequence, *tokens: int) -> None:
    for token in tokens:
        sequence.append(token)


def greedy(sequence: Sequence, num: int) -> list[int]:
    """The next tokens by the model alone, computed anew."""
    tokens = sequence.tokens[: sequence.num_tokens].tolist()
    for _ in range(num):
        model = FakeModel(40, BLOCK)
        model.repeats = 2.0
        ends, zero = np.array([0, len(tokens)], np.int32), np.zeros(1, np.int32)
        table = np.arange(40, dtype=np.int32).reshape(1, -1)
        (logits,) = model.forward(np.array(tokens, np.int32), ends, zero, table, ends[1:] - np.int32(1))
        tokens.append(int(logits.argmax()))
    return tokens[sequence.num_tokens :]


def sure(bench: Bench, *sequences: Sequence) -> None:
    """All guesses have been right in these sequences."""
    for sequence in sequences:
        for _ in range(100):
            bench.drafter.observe(sequence, 1, 1)


def test_guesses_are_what_the_model_would_go_on_with():
    bench, sequence = Bench(), sequence_of(*range(2, 20))
    sure(bench, sequence)
    for _ in range(3):
        expected = greedy(sequence, 4)
        assert bench.propose({sequence: 4}) == {sequence: expected}
        extend(sequence, *expected, 7)


def test_only_what_came_true_is_gone_on_from():
    bench, sequence = Bench(), sequence_of(*range(2, 20))
    sure(bench, sequence)
    first, second, third = greedy(sequence, 3)
    assert bench.propose({sequence: 3})[sequence] == [first, second, third]
    extend(sequence, first, (second + 1) % 48)
    before = bench.model.num_computed
    assert bench.propose({sequence: 3})[sequence] == greedy(sequence, 3)
    assert bench.model.num_computed - before == 3  # the token that came instead, and two guesses


def test_sequences_are_guessed_together_one_token_of_each_per_step():
    bench = Bench()
    sequences = [sequence_of(*range(first, first + 9)) for first in (2, 13, 24)]
    sure(bench, *sequences)
    found = bench.propose(dict(zip(sequences, (4, 2, 3), strict=True)))
    assert bench.model.batch_sizes == [3, 3, 2, 1]
    assert found == {s: greedy(s, num) for s, num in zip(sequences, (4, 2, 3), strict=True)}


def test_a_prefix_read_for_one_sequence_is_not_read_again_for_the_next():
    bench, stem = Bench(), list(range(2, 35))
    first, second = sequence_of(*stem, 5), sequence_of(*stem, 6)
    bench.propose({first: 1})
    extend(first, 9)
    bench.propose({first: 1})  # what the sequence has is known to be so only now
    before = bench.model.num_computed
    assert bench.propose({second: 1})[second] == greedy(second, 1)
    assert bench.model.num_computed - before == 2
    private = sequence_of(*stem, 6, shares_prefix=False)
    bench.propose({private: 1})
    assert bench.model.num_computed - before == 2 + 34


def test_a_long_text_is_read_in_pieces_before_anything_is_guessed():
    bench, sequence = Bench(step_tokens=16), sequence_of(*range(2, 42))
    assert bench.propose({sequence: 3}) == bench.propose({sequence: 3}) == {}
    assert bench.model.num_computed == 32
    assert bench.propose({sequence: 1}) == {sequence: greedy(sequence, 1)}
    hurried = Bench(step_seconds=1e-9)
    assert hurried.propose({sequence: 3}) == {} and hurried.model.num_computed == 4


def test_a_sequence_longer_than_the_context_is_left_alone():
    bench = Bench(context_length=16)
    fits, long = sequence_of(*range(2, 17)), sequence_of(*range(2, 18))
    assert bench.propose({fits: 1, long: 1}).keys() == {fits}


def test_who_guesses_takes_blocks_from_those_who_do_not():
    bench = Bench(num_blocks=5)
    first, second = sequence_of(*range(2, 14)), sequence_of(*range(20, 32))
    for _ in range(3):
        assert bench.propose({first: 1}) == {first: greedy(first, 1)}
        assert bench.propose({second: 1}) == {second: greedy(second, 1)}
    together = bench.propose({first: 1, second: 1})
    assert len(together) == 1 and together.items() <= {first: greedy(first, 1), second: greedy(second, 1)}.items()


def test_a_sequence_that_ended_holds_no_block():
    bench, sequence = Bench(), sequence_of(*range(2, 14))
    bench.propose({sequence: 2})
    assert bench.drafter.pool.num_held
    bench.drafter.forget(sequence)
    bench.drafter.forget(sequence_of(1))
    assert not bench.drafter.pool.num_held


def test_unlikely_and_too_few_guesses_are_not_made():
    sequence = sequence_of(*range(2, 20))
    picky, modest = Bench(least_probability=0.99), Bench(fewest=3)
    sure(modest, sequence)
    assert picky.propose({sequence: 3}) == {}
    assert modest.propose({sequence: 2}) == {}
    assert len(modest.propose({sequence: 3})[sequence]) == 3


def test_a_request_may_be_pickier_than_the_worker_or_less():
    picky, modest = Bench(least_probability=0.99), Bench(fewest=3)
    easy, hard, many = (sequence_of(*range(2, 20)) for _ in range(3))
    easy.guessing, hard.guessing = Guessing(fewest=1, least_probability=0.0), Guessing(least_probability=0.99)
    many.guessing = Guessing(fewest=9)
    sure(picky, easy)
    sure(modest, easy, hard, many)
    assert len(picky.propose({easy: 3})[easy]) == 3
    assert modest.propose({easy: 2, hard: 3}).keys() == {easy}
    assert len(modest.propose({many: 3})[many]) == 3  # never more than it gets


def test_a_model_that_is_wrong_pauses_and_the_dearer_the_sooner():
    def tries_until_pause(price: float) -> int:
        bench = Bench()
        drafter, sequence = ModelDrafter(bench, bench.limits, price, bench.cores), sequence_of(*range(2, 10))
        for number in count():
            if not (found := drafter.propose({sequence: 4})):
                return number
            drafter.observe(sequence, found[sequence].size, 0)
        raise AssertionError

    assert 1 <= tries_until_pause(0.3) <= tries_until_pause(0.0) < 6


@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_to_sequences_guesses_are_the_models(seed):
    """Some come true in part; contexts are shifted, sequences end, blocks are scarce."""
    dice = random.Random(seed)
    bench = Bench(num_blocks=dice.choice([20, 40]), step_tokens=dice.choice([5, 8, 64]))
    stem, open_sequences, num_guessed = [dice.randrange(2, 48) for _ in range(20)], [], 0
    for _ in range(60):
        if len(open_sequences) < 4:
            tail = [dice.randrange(2, 48) for _ in range(dice.randint(1, 6))]
            open_sequences.append(sequence_of(*stem[: dice.randrange(20)], *tail, shares_prefix=dice.random() < 0.8))
            sure(bench, open_sequences[-1])
        chosen = dice.sample(open_sequences, dice.randint(1, min(3, len(open_sequences))))
        wanted = {sequence: dice.randint(0, 4) for sequence in chosen}
        found = bench.propose(wanted)
        num_guessed += len(found)
        for sequence in wanted:
            guesses = found.get(sequence, [])
            assert guesses == greedy(sequence, len(guesses)) and len(guesses) <= wanted[sequence]
            extend(sequence, *guesses[: dice.randint(0, 4)], dice.randrange(2, 48))
            if sequence.num_tokens > 50:
                if dice.random() < 0.5:
                    bench.drafter.forget(sequence)
                    open_sequences.remove(sequence)
                else:
                    sequence.discard(dice.randint(0, 10), 25)
    for sequence in open_sequences:
        bench.drafter.forget(sequence)
    assert num_guessed > 10 and not bench.drafter.pool.num_held
