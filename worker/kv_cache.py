"""Which sequence holds which blocks of the key-value cache, and which prefixes can be reused. Bookkeeping only.

A block keeps the keys and values of `block_size` positions. The scheduler is the caller; pure, no clock, no memory of
the cache itself. Invariant: every block is in exactly one state, num_free + num_cached + num_held == num_blocks.

    free    holds nothing
    held    referenced by one sequence or, as part of a shared prefix, by several
    cached  referenced by none, but published: its tokens are known and the next sequence may adopt it; evicted oldest
            first when no block is free

A prefix is a number. Publishing block i of a sequence looks up (prefix of blocks [0, i), its tokens): an equal block
already published gives its prefix, else the block gets a number never used before. So a hit compares every token, and
a number whose block was evicted can never be reached by mistake.
"""

from collections import OrderedDict

from worker.sequence import Sequence

_Key = tuple[int, bytes]


class BlockPool:
    """Owns the state of all blocks."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._num_references = [0] * num_blocks
        self._index: dict[_Key, int] = {}
        self._keys: list[_Key | None] = [None] * num_blocks
        self._prefixes = [0] * num_blocks
        self._last_prefix = 0

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_available(self) -> int:
        return len(self._free) + len(self._cached)

    @property
    def num_held(self) -> int:
        return self.num_blocks - self.num_available

    def num_needed(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def room(self, sequence: Sequence) -> int:
        """Positions the sequence could hold if it got every available block."""
        return (sequence.num_blocks + self.num_available) * self.block_size

    def match(self, sequence: Sequence) -> list[int]:
        """Published blocks with the sequence's first tokens; at least one token is left to compute."""
        matched: list[int] = []
        prefix = 0
        if sequence.shares_prefix:
            for i in range((sequence.num_tokens - 1) // self.block_size):
                block = self._index.get((prefix, self._tokens(sequence, i)))
                if block is None:
                    break
                matched.append(block)
                prefix = self._prefixes[block]
        return matched

    def num_unused(self, blocks: list[int]) -> int:
        """How many of these blocks no sequence holds."""
        return sum(not self._num_references[block] for block in blocks)

    def adopt(self, sequence: Sequence, matched: list[int]) -> None:
        """Gives a sequence without blocks those of a prefix it shares."""
        for block in matched:
            if not self._num_references[block]:
                del self._cached[block]
            self._num_references[block] += 1
            sequence.append_block(block)
        if matched:
            sequence.prefix = self._prefixes[matched[-1]]
        sequence.num_published = len(matched)
        sequence.num_computed = len(matched) * self.block_size

    def grow(self, sequence: Sequence, num_tokens: int) -> None:
        """Adds blocks until the sequence can hold `num_tokens` positions, at most `room`."""
        while sequence.num_blocks * self.block_size < num_tokens:
            block = self._free.pop() if self._free else self._evict()
            self._num_references[block] = 1
            sequence.append_block(block)

    def publish(self, sequence: Sequence) -> None:
        """Offers the sequence's newly computed whole blocks for reuse."""
        if not sequence.shares_prefix:
            return
        while (sequence.num_published + 1) * self.block_size <= sequence.num_computed:
            i = sequence.num_published
            key = (sequence.prefix, self._tokens(sequence, i))
            sequence.prefix = self._prefixes[self._enter(key, int(sequence.blocks[i]))]
            sequence.num_published += 1

    def release(self, sequence: Sequence, *, forget: bool = False) -> None:
        """Takes all blocks back. `forget`: their content cannot be trusted, nobody may adopt them any more."""
        # Last block first: the beginning of a prefix, which serves more sequences, is evicted after its end.
        for block in reversed(sequence.blocks[: sequence.num_blocks].tolist()):
            if forget:
                self._withdraw(block)
            self._num_references[block] -= 1
            if not self._num_references[block]:
                if self._keys[block] is None:
                    self._free.append(block)
                else:
                    self._cached[block] = None
        sequence.num_blocks = sequence.num_computed = sequence.num_published = sequence.prefix = 0

    def _tokens(self, sequence: Sequence, i: int) -> bytes:
        return sequence.tokens[i * self.block_size : (i + 1) * self.block_size].tobytes()

    def _enter(self, key: _Key, block: int) -> int:
        """Makes `block` the one to find under `key`, unless there is one; returns which it is."""
        known = self._index.setdefault(key, block)
        if known == block:
            self._last_prefix += 1
            self._keys[block] = key
            self._prefixes[block] = self._last_prefix
        return known

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        self._withdraw(block)
        return block

    def _withdraw(self, block: int) -> None:
        key = self._keys[block]
        if key is not None:
            del self._index[key]
            self._keys[block] = None
