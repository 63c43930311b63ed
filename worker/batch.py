"""One step's work: which sequences compute how many tokens, and the guesses computed behind them.

The scheduler makes it, the engine lays it out for the model (step_inputs.py) and hands it back once it is computed.
Invariant: a sequence is in it at most once, and only what is in it has drafts.
"""

from dataclasses import dataclass, field

from worker.sequence import Sequence, Tokens
from worker.step_cost import Work


@dataclass(slots=True)
class Batch:
    """One step's work: sequences[i] computes counts[i] tokens from its num_computed on, and then its drafts, if any."""

    sequences: list[Sequence] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)  # those of `sequences` that did not run before
    work: Work = field(default_factory=Work)
    drafts: dict[Sequence, Tokens] = field(default_factory=dict)  # guesses at what follows, behind the tokens it has
    num_drafts: int = 0
    num_read: int = 0  # tokens of sequences that lack several
    seconds: float = 0.0  # what it should take, at most

    def add(self, sequence: Sequence, count: int) -> None:
        self.sequences.append(sequence)
        self.counts.append(count)
        self.work.add(sequence.num_computed, count)
        if sequence.num_uncomputed > 1:
            self.num_read += count

    def add_drafts(self, sequence: Sequence, drafts: Tokens) -> None:
        """Behind the last token of a sequence that was added."""
        self.drafts[sequence] = drafts
        self.num_drafts += drafts.size
        self.work.add(sequence.num_tokens, drafts.size)
