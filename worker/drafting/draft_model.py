"""Guesses by a small model beside the large one, with a cache of its own.

A Drafter (drafts.py), for any text; each guess costs a step of the small model. Every sequence it guesses for has a
twin here: the same tokens, the guesses behind them, and how far the small model has computed them.

    sequence   [ tokens ...................... )                   twin   [ tokens ...................... | guesses )

Guesses that did not come true are cut off the twin before the next ones are made; the twin's blocks are those of a
sequence, shared prefixes included. Invariant: only tokens that the sequence has get into the tree of prefixes, and
whoever guesses now takes blocks from those who do not, never from one another.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from worker.batch import Batch
from worker.cache.kv_cache import BlockPool
from worker.cores.lease import Cores
from worker.drafting.drafts import VERIFICATION, Acceptance
from worker.scheduler import LEAST_CHUNK
from worker.sequence import NO_LIMIT, Sequence, Tokens
from worker.step_cost import StepCost
from worker.step_inputs import IntArray, StepInputs

FloatArray = npt.NDArray[np.float32]
_FADE = 0.9  # a model errs more evenly than a lookup: its acceptance is learnt from more guesses


class SmallModel(Protocol):
    """What is needed of a decoder: see worker/model/decoder.py."""

    def forward(
        self, tokens: IntArray, starts: IntArray, contexts: IntArray, blocks: IntArray, logit_rows: IntArray
    ) -> FloatArray: ...


@dataclass(frozen=True, slots=True)
class DraftLimits:
    """How much the small model may hold, compute and guess."""

    context_length: int  # positions of one sequence, at most; longer ones are not guessed
    num_blocks: int
    block_size: int
    max_sequences: int  # that are guessed at once
    step_tokens: int
    step_seconds: float  # for what it reads in a step, before it can guess
    fewest: int = 0  # guesses; where there are fewer, none is tried
    least_probability: float = 0.0  # of a guess, by the small model


class ModelDrafter:
    """Owns the small model's cache and the twins. Only the engine's thread calls it."""

    def __init__(self, model: SmallModel, limits: DraftLimits, price: float, cores: Cores) -> None:
        """`price`: of the small model's step, in the large one's. Its steps are computed within `cores`, too."""
        self._model = model
        self._limits = limits
        self._cores = cores
        self.pool = BlockPool(limits.num_blocks, limits.block_size)
        max_blocks = self.pool.num_needed(limits.context_length)
        self._inputs = StepInputs(limits.max_sequences, limits.step_tokens, max_blocks, limits.max_sequences)
        self._cost = StepCost()
        self._twins: dict[Sequence, Sequence] = {}  # used longest ago first
        self._acceptance = defaultdict[Sequence, Acceptance](partial(Acceptance, VERIFICATION + price, _FADE))

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, Tokens]:
        counts = {s: self._acceptance[s].count(s, most) for s, most in wanted.items()}
        fitting = [s for s, count in counts.items() if count and s.num_tokens + count <= self._limits.context_length]
        if not fitting:
            return {}
        twins = {sequence: self._follow(sequence) for sequence in fitting}
        with self._cores.step(shared=True):
            self._guess({twin: counts[sequence] for sequence, twin in twins.items()})
        guesses = {s: twin.tokens[s.num_tokens : twin.num_tokens].copy() for s, twin in twins.items()}
        return {s: tokens for s, tokens in guesses.items() if tokens.size >= self._fewest(s, wanted[s])}

    def observe(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        self._acceptance[sequence].observe(sequence, num_drafted, num_accepted)

    def worth(self, sequence: Sequence) -> float:
        return self._acceptance[sequence].worth

    def forget(self, sequence: Sequence) -> None:
        self._acceptance.pop(sequence, None)
        if (twin := self._twins.pop(sequence, None)) is not None:
            self.pool.release(twin)

    def _follow(self, sequence: Sequence) -> Sequence:
        """The sequence's twin, with all of its tokens and no others, one of them at least to be computed."""
        twin = self._twins.pop(sequence, None)
        if twin is not None and twin.num_discarded != sequence.num_discarded:  # its context was shifted
            self.pool.release(twin)
            twin = None
        tokens = sequence.tokens[: sequence.num_tokens]
        if twin is None:
            twin = Sequence(tokens.tolist(), (), NO_LIMIT, shares_prefix=sequence.shares_prefix)
            twin.num_discarded = sequence.num_discarded
            twin.guessing = sequence.guessing
            self.pool.adopt(twin, self.pool.match(twin))
        else:
            _correct(twin, tokens)
            self.pool.publish(twin)
        self._twins[sequence] = twin
        return twin

    def _guess(self, counts: dict[Sequence, int]) -> None:
        """Appends up to so many guesses to each twin, one for all of them per step of the model."""
        while counts:
            found = self._step(counts)
            for twin, token in found.items():
                twin.append(token)
            counts = {twin: counts[twin] - 1 for twin in found if counts[twin] > 1}

    def _step(self, twins: Iterable[Sequence]) -> dict[Sequence, int]:
        """Computes what the twins lack, as far as time and blocks go; the next tokens of those that lack nothing."""
        batch = Batch()
        for twin in twins:
            count = self._room(twin, self._chunk(twin, batch), twins)
            if count > 0:
                self.pool.grow(twin, twin.num_computed + count)
                batch.add(twin, count)
        if not batch.sequences:
            return {}
        began = time.perf_counter()
        logits = self._model.forward(*self._inputs.fill(batch))
        self._cost.observe(batch.work, time.perf_counter() - began)
        for twin, count in zip(batch.sequences, batch.counts, strict=True):
            twin.num_computed += count
        rows = ((twin, rows[-1]) for twin, rows in self._inputs.split(batch, logits) if rows.size)
        return {twin: token for twin, row in rows if (token := self._likeliest(twin, row)) is not None}

    def _chunk(self, twin: Sequence, batch: Batch) -> int:
        """How many of the tokens that a twin lacks may join the step."""
        limits = self._limits
        fitting = self._cost.fitting(batch.work, twin.num_computed, limits.step_seconds)
        return min(twin.num_uncomputed, limits.step_tokens - batch.work.num_tokens, max(fitting, LEAST_CHUNK))

    def _room(self, twin: Sequence, count: int, guessing: Iterable[Sequence]) -> int:
        """How many of `count` tokens find blocks, once twins that are not guessed for now have given up theirs."""
        idle = (other for other in self._twins.values() if other.num_blocks and other not in guessing)
        while self.pool.room(twin) - twin.num_computed < count and (other := next(idle, None)) is not None:
            self.pool.release(other)
        return min(count, self.pool.room(twin) - twin.num_computed)

    def _fewest(self, sequence: Sequence, most: int) -> int:
        """How many guesses there must be, of at most so many, for any of them to be tried."""
        wanted = sequence.guessing.fewest
        return max(self._limits.fewest if wanted is None else min(wanted, most), 1)

    def _likeliest(self, twin: Sequence, logits: FloatArray) -> int | None:
        """A guess, if it is likely enough."""
        token = int(logits.argmax())
        wanted = twin.guessing.least_probability
        least = self._limits.least_probability if wanted is None else wanted
        return token if not least or 1 / np.exp(logits - logits[token]).sum() >= least else None


def _correct(twin: Sequence, tokens: Tokens) -> None:
    """Gives a twin these tokens: guesses that did not come true are cut off. One is left to be computed at least."""
    num = min(twin.num_tokens, tokens.size)
    wrong = np.flatnonzero(twin.tokens[:num] != tokens[:num])
    num_right = int(wrong[0]) if wrong.size else num
    twin.num_computed = min(twin.num_computed, num_right, tokens.size - 1)
    twin.num_tokens = num_right
    for token in tokens[num_right:].tolist():
        twin.append(token)
