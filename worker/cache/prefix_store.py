"""Computed prefixes on disk: a folder of cache blocks, each in a file named after all tokens up to its end.

prefixes.py calls it in the engine's thread; files are read and written in a thread of its own. A file that is gone,
damaged or stale is a miss and nothing else; so is a full disk. Replicas share a folder: each looks at what the others
have done whenever it has written a part of the room. Folders of other identities lie beside it: one that another worker
uses has room of its own, and what is left in one that nobody uses goes before anything else. Invariant: the files of
the folder and those that nobody uses never take more than `max_bytes`, but for that part for each of the others; those
used longest ago go first.
"""

import logging
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from worker.cache.kv_file import HEADER_BYTES, Content, Unusable, read, write
from worker.cache.store_folders import (
    NAME_DIGITS,
    SUFFIX,
    StoredBlock,
    blocks_in,
    claim,
    leftovers,
    remove_leftover,
)

log = logging.getLogger("worker.prefix_store")

_PARTS = 16  # of the room; the folder is looked at once for each that was written

Blocks = Mapping[bytes, Content]  # name -> content


class PrefixStore:
    """Owns a folder. Only its thread touches files."""

    def __init__(self, folder: Path, identity: bytes, max_bytes: int) -> None:
        """A folder of the model's own inside `folder` is made. Raises OSError."""
        self._folder = folder / identity.hex()[:NAME_DIGITS]
        self._claim = claim(self._folder)
        self._identity = identity
        self._max_bytes = max_bytes
        self._is_failing = False  # since the last block that was written
        self._look()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefix-store")

    def __contains__(self, name: bytes) -> bool:
        """Whether the block is worth asking for. Any thread may ask."""
        return name in self._sizes

    def fetch(self, names: Sequence[bytes], block_bytes: int, then: Callable[[Blocks], None]) -> None:
        """Reads these blocks up to the first that cannot be had; `then` is called in the store's thread."""
        self._thread.submit(self._read, names, block_bytes, then)

    def put(self, blocks: Blocks, then: Callable[[], None]) -> Future[None]:
        """Writes blocks; `then` is called in the store's thread. The future is done after that."""
        return self._thread.submit(self._write, blocks, then)

    def close(self) -> None:
        """Returns when everything that was put is written."""
        self._thread.shutdown()
        self._claim.close()

    def _read(self, names: Sequence[bytes], block_bytes: int, then: Callable[[Blocks], None]) -> None:
        found: dict[bytes, Content] = {}
        try:
            for name in names:
                if name not in self._sizes or (content := self._content(name, block_bytes)) is None:
                    break
                found[name] = content
            for name in reversed(found):  # the beginning of a prefix is worth more than its end
                self._sizes.move_to_end(name)
                os.utime(self._path(name))
        except OSError as error:
            log.warning("%s: %s", self._folder, error.strerror)
        finally:
            then(found)

    def _content(self, name: bytes, block_bytes: int) -> Content | None:
        """A block's content; a file that is no good is removed."""
        try:
            key, content = read(self._path(name), self._identity, _file_bytes(name, block_bytes))
            if key != name or len(content) != block_bytes:
                raise Unusable("it is not the block that its name says")
        except Unusable as error:
            log.info("%s is left out: %s", self._path(name), error)
            self._drop(name)
            return None
        return content

    def _write(self, blocks: Blocks, then: Callable[[], None]) -> None:
        try:
            for name, content in blocks.items():
                if name not in self._sizes:
                    self._write_block(name, content)
        except OSError as error:
            self._tell(error.strerror or str(error))
        finally:
            then()

    def _write_block(self, name: bytes, content: Content) -> None:
        num_bytes = _file_bytes(name, len(content))
        if num_bytes > self._max_bytes:
            self._tell(f"a block takes {num_bytes} bytes, and all may take {self._max_bytes} (--kv-store-size)")
            return
        self._make_room(num_bytes)
        self._sizes[name] = write(self._path(name), self._identity, name, [content])
        self._num_bytes += num_bytes
        self._is_failing = False

    def _tell(self, reason: str) -> None:
        """Of a disk that stays full, one line is enough."""
        if not self._is_failing:
            log.warning("%s: prefixes are not stored: %s", self._folder, reason)
        self._is_failing = True

    def _look(self) -> None:
        own = blocks_in(self._folder)
        self._sizes = OrderedDict((bytes.fromhex(block.path.stem), block.num_bytes) for block in own)  # oldest first
        self._leftovers = deque(leftovers(self._folder))
        self._num_bytes = sum(block.num_bytes for block in (*own, *self._leftovers))
        self._num_new = 0  # bytes written since

    def _make_room(self, num_bytes: int) -> None:
        self._num_new += num_bytes
        if self._num_new > self._max_bytes // _PARTS:
            self._look()
        while self._leftovers and self._num_bytes + num_bytes > self._max_bytes:
            self._drop_leftover(self._leftovers.popleft())
        while self._sizes and self._num_bytes + num_bytes > self._max_bytes:
            self._drop(next(iter(self._sizes)))

    def _drop_leftover(self, block: StoredBlock) -> None:
        remove_leftover(block)
        self._num_bytes -= block.num_bytes

    def _drop(self, name: bytes) -> None:
        self._num_bytes -= self._sizes.pop(name, 0)
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: bytes) -> Path:
        return self._folder / f"{name.hex()}{SUFFIX}"


def _file_bytes(name: bytes, block_bytes: int) -> int:
    return HEADER_BYTES + len(name) + block_bytes
