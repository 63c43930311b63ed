"""Computed prefixes on disk: a folder of cache blocks, each in a file named after all tokens up to its end.

prefixes.py calls it in the engine's thread; files are read and written in a thread of its own. A file that is gone,
damaged or stale is a miss and nothing else; so is a full disk. Replicas share a folder: each looks at what the others
have done whenever it has written a part of the room. Invariant: the files never take more than `max_bytes`, but for
that part for each of the others; those used longest ago go first.
"""

import contextlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from worker.cache.kv_file import Content, Unusable, read, write

log = logging.getLogger("worker.prefix_store")

_SUFFIX = ".kv"
_HEADER_ROOM = 1024  # bytes of a file besides the block's own
_PARTS = 16  # of the room; the folder is looked at once for each that was written

Blocks = Mapping[bytes, Content]  # name -> content


class PrefixStore:
    """Owns a folder. Only its thread touches files."""

    def __init__(self, folder: Path, identity: bytes, max_bytes: int) -> None:
        """A folder of the model's own inside `folder` is made. Raises OSError."""
        self._folder = folder / identity.hex()[:32]
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._identity = identity
        self._max_bytes = max_bytes
        for abandoned in self._folder.glob(".*.part"):  # by a writer that was killed
            abandoned.unlink(missing_ok=True)
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
            key, content = read(self._path(name), self._identity, block_bytes + _HEADER_ROOM)
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
                    self._make_room(len(content) + _HEADER_ROOM)
                    self._sizes[name] = write(self._path(name), self._identity, name, [content])
                    self._num_bytes += self._sizes[name]
        except OSError as error:
            log.warning("%s: prefixes are not stored: %s", self._folder, error.strerror)
        finally:
            then()

    def _look(self) -> None:
        self._sizes = _known_files(self._folder)  # used longest ago first
        self._num_bytes = sum(self._sizes.values())
        self._num_new = 0  # bytes written since

    def _make_room(self, num_bytes: int) -> None:
        self._num_new += num_bytes
        if self._num_new > self._max_bytes // _PARTS:
            self._look()
        while self._sizes and self._num_bytes + num_bytes > self._max_bytes:
            self._drop(next(iter(self._sizes)))

    def _drop(self, name: bytes) -> None:
        self._num_bytes -= self._sizes.pop(name, 0)
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: bytes) -> Path:
        return self._folder / f"{name.hex()}{_SUFFIX}"


def _known_files(folder: Path) -> OrderedDict[bytes, int]:
    """Name and size of every block in the folder, the oldest first."""
    facts = []
    for path in folder.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # another worker has made room
            stat = path.stat()
            facts.append((stat.st_mtime_ns, stat.st_size, path.stem))
    return OrderedDict((bytes.fromhex(stem), size) for _, size, stem in sorted(facts) if _is_name(stem))


def _is_name(stem: str) -> bool:
    return len(stem) % 2 == 0 and all(letter in "0123456789abcdef" for letter in stem)
