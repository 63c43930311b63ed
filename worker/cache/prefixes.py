"""The content of cached prefixes on its way out of the cache and back: to the store on disk, to and from slot files.

The engine calls it in its thread. Whole prefixes are copied a few blocks between two steps and held meanwhile, unless
that would leave too few for a step: then the rest is copied at once. Invariant: a block enters the tree only together
with its content, and content is copied out only while the tree has it.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from worker.cache.kv_cache import BlockPool
from worker.cache.kv_file import Content
from worker.cache.prefix_store import PrefixStore
from worker.chores import Chores, Work
from worker.sequence import Sequence as TokenSequence

_BLOCKS_AT_ONCE = 4  # copied between two steps


class CacheMemory(Protocol):
    """What is needed of worker/model/decoder.py: the bytes of a block in all layers."""

    def read_block(self, block: int) -> bytes: ...

    def write_block(self, block: int, content: Content) -> None: ...


class Prefixes:
    """Moves blocks between the cache and what outlives it. Owns the list of those that are still to be stored."""

    def __init__(
        self,
        pool: BlockPool,
        memory: CacheMemory,
        store: PrefixStore | None,
        call: Callable[[Callable[[], None]], None],
        chores: Chores,
        num_spare: int,
    ) -> None:
        """`call` runs a function in the engine's thread, from any thread; a step takes at most `num_spare` blocks."""
        self._pool = pool
        self._memory = memory
        self._store = store
        self._call = call
        self._chores = chores
        self._num_spare = num_spare
        self._unstored: deque[bytes] = deque(maxlen=pool.num_blocks)
        self._storing = False
        self.block_bytes = len(memory.read_block(0))

    def num_held(self, names: Sequence[bytes]) -> int:
        """How many blocks, from the beginning of a chain on, need not be computed. Any thread may ask."""
        return next((index for index, name in enumerate(names) if not self._has(name)), len(names))

    def copy(self, names: Sequence[bytes]) -> Work[list[bytes]]:
        """The content of a chain of blocks, as far as the tree has it, now and when all of it is copied."""
        held: list[int] = []
        try:
            while len(held) < len(names) and names[len(held)] in self._pool and self._pool.hold_next(names, held):
                pass
            contents: list[bytes] = []
            for block in held:
                contents.append(self._memory.read_block(block))
                if self._may_pause(len(contents)):
                    yield
            return contents[: _num_alike(held, self._pool.find(names))]
        finally:
            self._pool.give_back(held)

    def fill(self, names: Sequence[bytes], contents: Mapping[bytes, Content]) -> Work[None]:
        """Puts a chain of blocks into the tree, up to the first that is neither there nor given nor has room."""
        held: list[int] = []
        num_filled = 0
        try:
            for name in names:
                is_known = name in self._pool
                if not (is_known or name in contents) or not self._pool.hold_next(names, held):
                    break
                if not is_known:
                    self._memory.write_block(held[-1], contents[name])
                    num_filled += 1
                    if self._may_pause(num_filled):
                        yield
        finally:
            self._pool.give_back(held)

    def fetch(self, sequence: TokenSequence, then: Callable[[], None]) -> bool:
        """Begins to read what the store has of a sequence's beginning and the tree has not; False: there is none.

        `then` is called in the engine's thread when all of that is in the tree.
        """
        if self._store is None:
            return False
        names = list(self._pool.reusable(sequence))
        num_known = len(self._pool.find(names))
        if num_known == len(names) or names[num_known] not in self._store:
            return False

        def arrived(found: Mapping[bytes, Content]) -> None:
            def enter() -> Work[None]:
                yield from self.fill(names, found)
                then()

            self._call(lambda: self._chores.add(enter()))

        self._store.fetch(names[num_known:], self.block_bytes, arrived)
        return True

    def remember(self, sequence: TokenSequence) -> None:
        """Stores the sequence's blocks that are in the tree, a few between two steps."""
        if self._store is not None:
            self._unstored.extend(name for name in sequence.digests if name not in self._store)
            if not self._storing:
                self._store_next()

    def close(self) -> None:
        """Stores what is left and waits for it."""
        if self._store is not None:
            while contents := self._next_contents():
                self._store.put(contents, lambda: None).result()
            self._store.close()

    def _may_pause(self, num_copied: int) -> bool:
        """After every few blocks, unless those held until the end are ones that the next step may need."""
        return num_copied % _BLOCKS_AT_ONCE == 0 and self._pool.num_available >= self._num_spare

    def _has(self, name: bytes) -> bool:
        return name in self._pool or (self._store is not None and name in self._store)

    def _store_next(self) -> None:
        contents = self._next_contents()
        self._storing = bool(contents)
        if self._store is not None and contents:
            self._store.put(contents, lambda: self._call(self._store_next))

    def _next_contents(self) -> dict[bytes, bytes]:
        contents: dict[bytes, bytes] = {}
        while self._unstored and len(contents) < _BLOCKS_AT_ONCE:
            name = self._unstored.popleft()
            contents.update((name, self._memory.read_block(block)) for block in self._pool.find([name]))
        return contents


def _num_alike(blocks: Sequence[int], others: Sequence[int]) -> int:
    """How many are the same, from the first on."""
    pairs = enumerate(zip(blocks, others, strict=False))
    return next((index for index, (block, other) in pairs if block != other), min(len(blocks), len(others)))
