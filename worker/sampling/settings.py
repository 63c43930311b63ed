"""What a request may say about how its tokens are chosen, and what choosing them leaves behind.

Made by worker/rpc/limits.py, read by the samplers. Names, order and defaults are llama-server's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from worker.sampling.breakers import NO_BREAKERS, Breakers

SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
ALL_SAMPLERS = (*SAMPLERS, "adaptive_p")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a request wants its tokens chosen."""

    seed: int
    samplers: Sequence[str] = SAMPLERS
    temperature: float = 0.8  # 0 or less: the most likely token
    dynatemp_range: float = 0.0  # above 0: the temperature follows the entropy, this far from `temperature`
    dynatemp_exponent: float = 1.0
    top_k: int = 40  # 0 or less: all
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0  # 0 or less: off
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1  # above 0.5: off
    min_keep: int = 0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_last_n: int = 64  # below 0: all tokens
    dry_multiplier: float = 0.0  # 0: off
    dry_base: float = 1.75  # below 1: off
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64  # below 0: all tokens
    dry_breakers: Breakers = NO_BREAKERS
    mirostat: int = 0  # 1 or 2: that version, instead of the samplers
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0  # below 0: adaptive_p draws as usual
    adaptive_decay: float = 0.9
    logit_bias: tuple[tuple[int, float], ...] = ()
    ignore_eos: bool = False

    @property
    def penalises(self) -> bool:
        """Whether the penalties change anything."""
        penalties = (self.repeat_penalty, self.presence_penalty, self.frequency_penalty)
        return self.repeat_last_n != 0 and penalties != (1.0, 0.0, 0.0)

    @property
    def dry_is_on(self) -> bool:
        return self.dry_multiplier != 0.0 and self.dry_base >= 1.0 and self.dry_penalty_last_n != 0

    @property
    def xtc_is_on(self) -> bool:
        return self.xtc_probability > 0.0 and self.xtc_threshold <= 0.5


class Memory(NamedTuple):
    """All that choosing the next token depends on besides logits, tokens and settings; f32 numbers.

    It is carried, not computed again from the tokens: they do not tell how likely each was, nor who drew when.
    """

    num_draws: int = 0
    num_xtc_draws: int = 0
    mirostat_mu: float | None = None  # None: as at the beginning
    adaptive: tuple[float, float] | None = None  # weighted sum and total weight of the probabilities chosen


NOTHING_YET = Memory()
