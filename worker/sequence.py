"""A sequence: the tokens of one request and how far they have been computed. Scheduler and block pool work on it.

Invariant: num_computed <= num_tokens, and the keys and values of tokens [0, num_computed) lie in its blocks.
There is no prefill and no decode: whoever computes makes `num_computed` catch up with `num_tokens`. Behind that, blocks
may hold keys and values of drafts that did not come true; they are written over when it gets there.

    tokens   [ prompt ........................ | completion .... |  capacity  )
             0                num_prompt_tokens           num_tokens

A context shift takes tokens out of the middle and has the rest computed anew:

    before   [ kept | discarded | rest ......... )        after   [ kept | rest ......... )
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]

NO_LIMIT = 1 << 30
SCORED_PER_STEP = 8  # tokens of a prompt whose own likelihood is asked for: a row of logits each
NO_PLACE = -1
LOWEST_PRIORITY, USUAL_PRIORITY, HIGHEST_PRIORITY = 0, 5, 9


@dataclass(frozen=True, slots=True)
class Standing:
    """What decides when a request's turn comes."""

    client: str = ""  # requests of one client share one part of the machine
    weight: float = 1.0  # of the client's part
    priority: int = USUAL_PRIORITY  # among the client's own requests; the highest goes first
    arrived: float = 0.0  # seconds, of any clock that is the same for all


@dataclass(frozen=True, slots=True)
class Guessing:
    """What a request says of tokens guessed ahead, within what the worker was told; None: as it was told."""

    most: int | None = None  # at once
    fewest: int | None = None  # of a small model; fewer are not tried
    least_probability: float | None = None  # of each, by the small model


AS_TOLD = Guessing()


class Sequence:
    """What the scheduler knows of a request. Owned by the engine thread once it was added."""

    __slots__ = (
        "blocks",
        "digests",
        "former_place",
        "guessing",
        "max_tokens",
        "most_per_step",
        "num_blocks",
        "num_cached",
        "num_computed",
        "num_discarded",
        "num_prompt_tokens",
        "num_published",
        "num_tokens",
        "place",
        "shares_prefix",
        "standing",
        "tokens",
        "wanted_place",
    )

    def __init__(
        self,
        prompt: Items[int],
        resumed: Items[int],
        max_tokens: int,
        *,
        shares_prefix: bool,
        guessing: Guessing = AS_TOLD,
        standing: Standing = Standing(),
        wanted_place: int = NO_PLACE,
    ) -> None:
        """`resumed`: tokens already emitted elsewhere. `max_tokens`: of prompt and completion together."""
        self.num_prompt_tokens = len(prompt)
        self.num_tokens = len(prompt) + len(resumed)
        self.tokens: Tokens = np.zeros(max(16, self.num_tokens * 5 // 4), np.int32)
        self.tokens[: len(prompt)] = prompt
        self.tokens[len(prompt) : self.num_tokens] = resumed
        self.max_tokens = max_tokens
        self.guessing = guessing
        self.most_per_step = NO_LIMIT  # tokens; less where logits of all of them are wanted
        self.num_computed = 0
        self.num_discarded = 0  # tokens that context shifts took out
        self.num_cached = -1  # prompt tokens found computed when first admitted; below 0: never admitted
        self.blocks: Tokens = np.zeros(4, np.int32)
        self.num_blocks = 0
        self.shares_prefix = shares_prefix
        self.num_published = 0  # leading blocks that the pool's tree has
        self.digests: list[bytes] = []  # of leading whole blocks, as far as they were needed; see kv_cache.py
        self.standing = standing
        self.wanted_place = wanted_place  # the only one where it may run, if any
        self.former_place = NO_PLACE  # where it ran until it was interrupted
        self.place = NO_PLACE  # while it runs

    def append(self, token: int) -> None:
        if self.num_tokens == len(self.tokens):
            self.tokens = np.resize(self.tokens, 2 * self.num_tokens)
        self.tokens[self.num_tokens] = token
        self.num_tokens += 1

    def append_block(self, block: int) -> None:
        if self.num_blocks == len(self.blocks):
            self.blocks = np.resize(self.blocks, 2 * self.num_blocks)
        self.blocks[self.num_blocks] = block
        self.num_blocks += 1

    def discard(self, num_kept: int, num_discarded: int) -> None:
        """Takes tokens [num_kept, num_kept + num_discarded) out of a sequence that holds no blocks."""
        assert self.num_blocks == self.num_computed == 0
        rest = self.tokens[num_kept + num_discarded : self.num_tokens].copy()
        self.tokens[num_kept : num_kept + len(rest)] = rest
        self.num_tokens = num_kept + len(rest)
        self.num_discarded += num_discarded
        self.digests.clear()

    def num_logit_rows(self, count: int) -> int:
        """Of the next `count` tokens, the last so many are to have their logits computed."""
        if self.most_per_step < NO_LIMIT and self.num_computed < self.num_prompt_tokens - 1:
            return count
        return 1 if self.num_computed + count == self.num_tokens else 0

    @property
    def last_token(self) -> int:
        return int(self.tokens[self.num_tokens - 1])

    @property
    def num_completion_tokens(self) -> int:
        return self.num_tokens + self.num_discarded - self.num_prompt_tokens

    @property
    def num_uncomputed(self) -> int:
        return self.num_tokens - self.num_computed

    @property
    def is_full(self) -> bool:
        return self.num_tokens + self.num_discarded >= self.max_tokens
