"""A sequence: the tokens of one request and how far they have been computed. Scheduler and block pool work on it.

Invariant: num_computed <= num_tokens, and the keys and values of tokens [0, num_computed) lie in its blocks.
There is no prefill and no decode: whoever computes makes `num_computed` catch up with `num_tokens`.

    tokens   [ prompt ........................ | completion .... |  capacity  )
             0                num_prompt_tokens           num_tokens
"""

from collections.abc import Sequence as Items

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]


class Sequence:
    """What the scheduler knows of a request. Owned by the engine thread once it was added."""

    __slots__ = (
        "blocks",
        "max_tokens",
        "num_blocks",
        "num_cached",
        "num_computed",
        "num_prompt_tokens",
        "num_published",
        "num_tokens",
        "prefix",
        "shares_prefix",
        "tokens",
    )

    def __init__(self, prompt: Items[int], resumed: Items[int], max_tokens: int, *, shares_prefix: bool) -> None:
        """`resumed`: tokens already emitted elsewhere. `max_tokens`: of prompt and completion together."""
        self.num_prompt_tokens = len(prompt)
        self.num_tokens = len(prompt) + len(resumed)
        self.tokens: Tokens = np.zeros(max(16, self.num_tokens * 5 // 4), np.int32)
        self.tokens[: len(prompt)] = prompt
        self.tokens[len(prompt) : self.num_tokens] = resumed
        self.max_tokens = max_tokens
        self.num_computed = 0
        self.num_cached = -1  # prompt tokens found computed when first admitted; below 0: never admitted
        self.blocks: Tokens = np.zeros(4, np.int32)
        self.num_blocks = 0
        self.shares_prefix = shares_prefix
        self.num_published = 0  # leading blocks offered for reuse
        self.prefix = 0  # names the tokens of the published blocks; see kv_cache.py

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

    @property
    def num_completion_tokens(self) -> int:
        return self.num_tokens - self.num_prompt_tokens

    @property
    def num_uncomputed(self) -> int:
        return self.num_tokens - self.num_computed

    @property
    def is_full(self) -> bool:
        return self.num_tokens >= self.max_tokens
