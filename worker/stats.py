"""What the engine counts, and how it tells others.

The engine owns a Counters and changes it in its thread; anybody may take a Stats of it.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import NamedTuple

STEP_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds


class Stats(NamedTuple):
    """Each number is right, but they are not of the same instant."""

    num_steps: int
    num_running: int
    num_waiting: int
    num_blocks: int
    num_free_blocks: int
    num_cached_blocks: int
    prompt_tokens: int
    cached_tokens: int
    predicted_tokens: int
    prompt_seconds: float
    predicted_seconds: float
    step_seconds: float
    step_counts: tuple[int, ...]  # steps that took up to STEP_BOUNDS[i] and longer than the bound before; the rest last
    expected_wait: float  # seconds in line for one who comes now
    busy: bool
    num_advanced: int
    longest: int
    num_drafts: int
    drafted_tokens: int
    accepted_tokens: int
    num_prefix_blocks: int
    num_prefixes: int
    prefix_digest: int


@dataclass(slots=True)
class Counters:
    """Totals since the start."""

    num_steps: int = 0
    prompt_tokens: int = 0  # computed
    cached_tokens: int = 0  # reused
    predicted_tokens: int = 0
    prompt_seconds: float = 0.0
    predicted_seconds: float = 0.0
    step_seconds: float = 0.0
    num_advanced: int = 0  # sequences that a step carried forward, summed over the steps
    longest: int = 0  # tokens of the longest sequence computed so far
    num_drafts: int = 0  # times that tokens were guessed ahead
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    step_counts: list[int] = field(default_factory=lambda: [0] * (len(STEP_BOUNDS) + 1))

    def count_step(self, seconds: float, num_sequences: int, longest: int) -> None:
        """A step of that many sequences, the longest of which has that many tokens behind it now."""
        self.num_steps += 1
        self.num_advanced += num_sequences
        self.longest = max(self.longest, longest)
        self.step_seconds += seconds
        self.step_counts[bisect_left(STEP_BOUNDS, seconds)] += 1

    def count_drafts(self, num_drafted: int, num_accepted: int) -> None:
        """Tokens guessed for one sequence, the first of which were those that came."""
        self.num_drafts += 1
        self.drafted_tokens += num_drafted
        self.accepted_tokens += num_accepted
