"""A scheduler and its pool, stepped by hand."""

from worker.batch import Batch
from worker.cache.kv_cache import BlockPool
from worker.scheduler import Limits, Scheduler
from worker.sequence import NO_PLACE, Sequence, Standing

BLOCK = 4


class Bench:
    def __init__(self, num_blocks=16, max_running=4, max_waiting=10, step_tokens=16, step_seconds=1e9) -> None:
        self.pool = BlockPool(num_blocks, BLOCK)
        self.scheduler = Scheduler(self.pool, Limits(max_running, max_waiting, step_tokens, step_seconds))

    def add(self, num_tokens: int, first_token: int = 0, *, wanted_place=NO_PLACE, **standing) -> Sequence:
        tokens = range(first_token, first_token + num_tokens)
        return self.add_tokens(tokens, wanted_place=wanted_place, standing=Standing(**standing))

    def add_tokens(self, tokens, *, shares_prefix=True, **settings) -> Sequence:
        sequence = Sequence(tokens, (), len(tokens) + 1000, shares_prefix=shares_prefix, **settings)
        self.scheduler.add(sequence)
        return sequence

    def step(self, seconds_per_token: float = 0.001) -> dict[Sequence, int]:
        """Schedules, computes and gives each sequence that caught up its next token."""
        batch = self.scheduler.schedule()
        for sequence in self.scheduler.commit(batch, seconds_per_token * batch.work.num_tokens):
            sequence.append(7)
        return counts(batch)


def counts(batch: Batch) -> dict[Sequence, int]:
    return dict(zip(batch.sequences, batch.counts, strict=True))
