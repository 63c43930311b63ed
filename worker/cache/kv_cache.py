"""Which sequence holds which blocks of the key-value cache, and which prefixes can be reused. Bookkeeping only.

A block keeps the keys and values of `block_size` positions. The scheduler is the caller; pure, no clock, no memory of
the cache itself. Every block is in exactly one state, num_free + num_cached + num_held == num_blocks:

    free    holds nothing
    held    referenced by one sequence or, as part of a shared prefix, by several, or while it is copied
    cached  referenced by none, but in the tree: its tokens are known and the next sequence may adopt it

The tree. A node is a block in it; its name is the digest of its parent's name and its own tokens, so that a name stands
for all tokens from the first on, here, in another process and on disk. Invariant: who holds a node holds its parent.
So a cached node has only cached descendants, they were released before it, and taking the one released longest ago is
always taking the oldest leaf.
"""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Sequence as Items

from worker.sequence import Sequence, Tokens

DIGEST_BYTES = 32
_ROOT = b""


def block_digest(parent: bytes, tokens: Tokens) -> bytes:
    """The name of a block with these tokens, i32, behind the block named `parent`, which is empty for the first one.

    It is long enough that nobody finds two prefixes with one name: equal names are equal tokens.
    """
    return hashlib.blake2b(parent + tokens.astype("<i4", copy=False).tobytes(), digest_size=DIGEST_BYTES).digest()


def chain(tokens: Tokens, block_size: int) -> list[bytes]:
    """The names of all whole blocks of tokens, i32, that begin a sequence."""
    names: list[bytes] = []
    for end in range(block_size, len(tokens) + 1, block_size):
        names.append(block_digest(names[-1] if names else _ROOT, tokens[end - block_size : end]))
    return names


class BlockPool:
    """Owns the state of all blocks.

    `digest`, 64 bits, is the exclusive or of the beginnings of all nodes' names: trees with the same prefixes have the
    same, in whatever order they grew, and one that changes changes it.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # released longest ago first
        self._num_references = [0] * num_blocks
        self._nodes: dict[bytes, int] = {}
        self._names: list[bytes | None] = [None] * num_blocks
        self._parents: list[bytes] = [_ROOT] * num_blocks
        self._num_children: Counter[bytes] = Counter()  # of each name that has any
        self.digest = 0

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

    @property
    def num_nodes(self) -> int:
        """Blocks in the tree, cached or held."""
        return len(self._nodes)

    @property
    def num_prefixes(self) -> int:
        """Leaves of the tree: prefixes that are no beginning of another."""
        return len(self._nodes) - len(self._num_children) + (_ROOT in self._num_children)

    def names(self) -> list[bytes]:
        """The names of all nodes."""
        return list(self._nodes)

    def __contains__(self, name: bytes) -> bool:
        """Whether the tree has a node of this name. Any thread may ask."""
        return name in self._nodes

    def num_needed(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def room(self, sequence: Sequence) -> int:
        """Positions the sequence could hold if it got every available block."""
        return (sequence.num_blocks + self.num_available) * self.block_size

    def digests(self, sequence: Sequence, num_blocks: int) -> list[bytes]:
        """The names of the sequence's first whole blocks, whether they are computed or not."""
        names, size = sequence.digests, self.block_size
        for i in range(len(names), num_blocks):
            tokens = sequence.tokens[i * size : (i + 1) * size]
            names.append(block_digest(names[-1] if names else _ROOT, tokens))
        return names[:num_blocks]

    def reusable(self, sequence: Sequence) -> list[bytes]:
        """The names of the blocks it could adopt if all were in the tree; at least one token is left to compute."""
        return self.digests(sequence, (sequence.num_tokens - 1) // self.block_size) if sequence.shares_prefix else []

    def match(self, sequence: Sequence) -> list[int]:
        """Blocks in the tree with the sequence's first tokens, of those that it could adopt."""
        return self.find(self.reusable(sequence))

    def find(self, names: Items[bytes]) -> list[int]:
        """The blocks of the longest beginning of this chain of names that is in the tree."""
        blocks: list[int] = []
        for name in names:
            block = self._nodes.get(name)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_unused(self, blocks: list[int]) -> int:
        """How many of these blocks no sequence holds."""
        return sum(not self._num_references[block] for block in blocks)

    def adopt(self, sequence: Sequence, matched: list[int]) -> None:
        """Gives a sequence without blocks those of a prefix it shares."""
        for block in matched:
            self._hold(block)
            sequence.append_block(block)
        sequence.num_published = len(matched)
        sequence.num_computed = len(matched) * self.block_size

    def grow(self, sequence: Sequence, num_tokens: int) -> None:
        """Adds blocks until the sequence can hold `num_tokens` positions, at most `room`."""
        while sequence.num_blocks * self.block_size < num_tokens:
            block = self._take()
            self._num_references[block] = 1
            sequence.append_block(block)

    def publish(self, sequence: Sequence) -> None:
        """Puts the sequence's newly computed whole blocks into the tree.

        Where the tree has such a block already, computed by another sequence at the same time, this one goes on with
        that and gives its own back: both hold the same bits.
        """
        while sequence.shares_prefix and (sequence.num_published + 1) * self.block_size <= sequence.num_computed:
            i = sequence.num_published
            names = self.digests(sequence, i + 1)
            if i and self._names[sequence.blocks[i - 1]] != names[i - 1]:  # what it goes on from was withdrawn
                return
            block = int(sequence.blocks[i])
            known = self._nodes.get(names[i])
            if known is None:
                self._enter(names[i], names[i - 1] if i else _ROOT, block)
            else:
                self._hold(known)
                sequence.blocks[i] = known
                self._let_go(block)
            sequence.num_published += 1

    def release(self, sequence: Sequence, *, forget: bool = False) -> None:
        """Takes all blocks back. `forget`: their content cannot be trusted, nobody may adopt them any more."""
        blocks = sequence.blocks[: sequence.num_blocks].tolist()
        if forget:
            self._withdraw({name for name in map(self._names.__getitem__, blocks) if name is not None})
        self.give_back(blocks)
        sequence.num_blocks = sequence.num_computed = sequence.num_published = 0

    def hold_next(self, names: Items[bytes], held: list[int]) -> bool:
        """Holds the block of a chain of names that follows those in `held`, its beginning, and adds it to them.

        A name that the tree lacks gets a block, whose content comes from elsewhere: the caller sees to it at once.
        False: no block can be had, or the last of those in `held` was withdrawn from the tree.
        """
        index = len(held)
        if index and self._names[held[-1]] != names[index - 1]:
            return False
        block = self._nodes.get(names[index])
        if block is not None:
            self._hold(block)
        elif self.num_available:
            block = self._take()
            self._num_references[block] = 1
            self._enter(names[index], names[index - 1] if index else _ROOT, block)
        else:
            return False
        held.append(block)
        return True

    def give_back(self, held: Items[int]) -> None:
        """Lets go of a chain that `hold_next` has made."""
        for block in reversed(held):  # children before their parents
            self._let_go(block)

    def erase(self, names: Items[bytes]) -> None:
        """Frees the end of a chain of names, up to what others hold or continue."""
        for block in reversed(self.find(names)):
            if self._num_references[block] or self._names[block] in self._num_children:
                return
            del self._cached[block]
            self._forget(block)
            self._free.append(block)

    def _hold(self, block: int) -> None:
        if not self._num_references[block]:
            del self._cached[block]
        self._num_references[block] += 1

    def _let_go(self, block: int) -> None:
        self._num_references[block] -= 1
        if not self._num_references[block]:
            if self._names[block] is None:
                self._free.append(block)
            else:
                self._cached[block] = None

    def _take(self) -> int:
        """A block that holds nothing, for which the oldest leaf may have to give way."""
        if self._free:
            return self._free.pop()
        block, _ = self._cached.popitem(last=False)
        self._forget(block)
        return block

    def _enter(self, name: bytes, parent: bytes, block: int) -> None:
        self._nodes[name] = block
        self._names[block], self._parents[block] = name, parent
        self._num_children[parent] += 1
        self.digest ^= int.from_bytes(name[:8])

    def _forget(self, block: int) -> None:
        name, parent = self._names[block], self._parents[block]
        if name is not None:
            del self._nodes[name]
            self._names[block], self._parents[block] = None, _ROOT
            self._num_children[parent] -= 1
            if not self._num_children[parent]:
                del self._num_children[parent]
            self.digest ^= int.from_bytes(name[:8])

    def _withdraw(self, names: set[bytes]) -> None:
        """Takes nodes and all their descendants out of the tree; who holds them keeps them to the end."""
        while names:
            blocks = [self._nodes[name] for name in names]
            names = {name for name, parent in zip(self._names, self._parents, strict=True) if name and parent in names}
            for block in blocks:
                self._forget(block)
                if not self._num_references[block]:
                    del self._cached[block]
                    self._free.append(block)
            names &= self._nodes.keys()
