"""A decoder, a tokenizer and a detokenizer without weights, for tests of everything around them.

FakeModel really keeps what it computes in a paged cache: each position stores a state that depends on the position
before it, both reached through the block table, and logits are a hash of all visible states read back from the cache.
A wrong table, chunk, reuse or preemption changes the logits. Garbage fills the cache at first.
"""

import threading
from collections.abc import Sequence as Items

import numpy as np

MIX = np.uint64(0x9E3779B97F4A7C15)
EOG = 0


def mix(x: np.ndarray | np.uint64) -> np.ndarray | np.uint64:
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(31))) * MIX
        return x ^ (x >> np.uint64(29))


class FakeModel:
    instruction_set = "fake"
    num_threads = 1
    num_parameters = 1000

    def __init__(self, num_blocks: int, block_size: int, vocab_size: int = 48, eog_odds: float = 0.0) -> None:
        self.vocab_size = vocab_size
        self.context_length = num_blocks * block_size
        self.block_size = block_size
        self.cache = np.random.default_rng(7).integers(0, 2**63, (num_blocks, block_size)).astype(np.uint64)
        self.eog_odds = eog_odds
        self.repeats = 0.0  # how much likelier one token is than others, the same after the same
        self.num_computed = 0
        self.batch_sizes: list[int] = []
        self.fail_on: int | None = None  # a token that makes forward raise
        self.nan_on: int | None = None  # a token after which logits are NaN
        self.gate = threading.Event()  # cleared: forward waits
        self.gate.set()
        self.entered = threading.Event()  # forward was called

    def forward(self, tokens, starts, contexts, blocks, logit_rows):
        self.entered.set()
        assert self.gate.wait(60)
        assert tokens.dtype == starts.dtype == contexts.dtype == blocks.dtype == logit_rows.dtype == np.int32
        assert blocks.flags.c_contiguous and len(starts) == len(contexts) + 1 == len(blocks) + 1
        if self.fail_on is not None and self.fail_on in tokens:
            raise RuntimeError("the fake model was told to fail")
        self.num_computed += len(tokens)
        self.batch_sizes.append(len(contexts))
        states = {}
        for sequence, context in enumerate(contexts.tolist()):
            first, last = int(starts[sequence]), int(starts[sequence + 1])
            for row in range(first, last):
                states[row] = self._compute(int(tokens[row]), context + row - first, blocks[sequence])
        return np.array([self._logits(states[row]) for row in logit_rows.tolist()], np.float32).reshape(
            -1, self.vocab_size
        )

    def read_block(self, block: int) -> bytes:
        return self.cache[block].tobytes()

    def write_block(self, block: int, content: bytes) -> None:
        self.cache[block] = np.frombuffer(content, np.uint64)

    def _compute(self, token: int, position: int, table: np.ndarray) -> tuple[int, np.uint64]:
        positions = np.arange(position + 1)
        where = table[positions // self.block_size], positions % self.block_size
        before = self.cache[where][position - 1] if position else np.uint64(1)
        with np.errstate(over="ignore"):
            self.cache[where[0][-1], where[1][-1]] = mix(before * MIX + np.uint64(token * 1009 + position))
            return token, np.uint64(np.sum(mix(self.cache[where] + positions.astype(np.uint64))))

    def _logits(self, state: tuple[int, np.uint64]) -> np.ndarray:
        token, visible = state
        if token == self.nan_on:
            return np.full(self.vocab_size, np.nan)
        with np.errstate(over="ignore"):
            hashed = mix(visible + np.arange(1, self.vocab_size + 1, dtype=np.uint64) * MIX)
        logits = (hashed >> np.uint64(40)).astype(np.float32) / np.float32(2**24) * 4
        logits[2 + token % 7] += np.float32(self.repeats)
        logits[EOG] = 100.0 if float(hashed[EOG] % np.uint64(1000)) < 1000 * self.eog_odds else -100.0
        return logits


class FakeTokenizer:
    """Every character is a token: its code point modulo the vocabulary. Token 0 ends a sequence, token 1 begins one."""

    bos_id, eos_id, add_bos, add_eos = 1, EOG, True, False
    vocab_type = 2
    longest_token = 1
    eog_ids = frozenset({EOG})

    def __init__(self, vocab_size: int = 48) -> None:
        self.vocab_size = vocab_size

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return [1] * add_special + [2 + ord(c) % (self.vocab_size - 2) for c in text]

    def piece(self, token: int, *, special: bool = True) -> bytes:
        return {0: b"<end>", 1: b"<begin>"}.get(token, chr(48 + token).encode())

    def decode(self, tokens: Items[int], *, special: bool = True) -> str:
        return b"".join(self.piece(token) for token in tokens).decode()


class FakeDetokenizer:
    """Releases each token's character at once; holds back nothing but the first character of a stop string."""

    def __init__(self, stop: Items[str] = (), resumed: Items[int] = ()) -> None:
        self.stop = stop
        self.stop_string: str | None = None
        self.pushed: list[int] = list(resumed)
        self.held = ""

    def push(self, token: int) -> str:
        self.pushed.append(token)
        text = self.held + chr(48 + token)
        self.held = ""
        for stop in self.stop:
            if stop in text:
                self.stop_string = stop
                return text[: text.index(stop)]
            if text.endswith(stop[0]):
                text, self.held = text[:-1], stop[0]
        return text

    def finish(self) -> str:
        text, self.held = self.held, ""
        return text
