"""Saved prefixes in files that a client names: one prefix a file, its tokens and the content of its blocks.

service.py calls it in its text threads. Invariant: a name leads to a file right inside the folder, and to nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worker.cache.kv_file import HEADER_BYTES, Content, Unusable, read, write
from worker.errors import InvalidRequest

_MOST_NAME_BYTES = 200


@dataclass(frozen=True, slots=True)
class SavedPrefix:
    """Tokens, and the content of the blocks that they fill."""

    tokens: Sequence[int]
    blocks: Sequence[Content]


class SlotFiles:
    """A folder of saved prefixes of one model."""

    def __init__(self, folder: Path, identity: bytes) -> None:
        """The folder is made if it is not there. Raises OSError."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._identity = identity

    def check(self, name: str) -> None:
        """Raises InvalidRequest for a name that no file can have here."""
        usable = name.isprintable() and not name.startswith(".") and not set(name) & set('/\\:*?"<>|')
        if not name or not usable or len(name.encode()) > _MOST_NAME_BYTES:
            raise InvalidRequest("Invalid filename")

    def save(self, name: str, prefix: SavedPrefix) -> int:
        """Returns the size of the file in bytes. Raises InvalidRequest, OSError."""
        key = np.asarray(prefix.tokens, "<i4").tobytes()
        return write(self._path(name), self._identity, key, prefix.blocks)

    def load(self, name: str, block_size: int, max_blocks: int, block_bytes: int) -> tuple[SavedPrefix, int]:
        """A prefix of at most `max_blocks` blocks, and the size of its file in bytes. Raises InvalidRequest."""
        most = max_blocks * (block_bytes + 4 * block_size) + HEADER_BYTES
        try:
            key, payload = read(self._path(name), self._identity, most)
            num_blocks, rest = divmod(len(payload), block_bytes)
            if rest or len(key) != 4 * block_size * num_blocks:
                raise Unusable("it is damaged")
        except Unusable as error:
            raise InvalidRequest(f"Unable to restore slot from '{name}': {error}") from None
        blocks = [payload[i * block_bytes : (i + 1) * block_bytes] for i in range(num_blocks)]
        return SavedPrefix(np.frombuffer(key, "<i4").tolist(), blocks), HEADER_BYTES + len(key) + len(payload)

    def _path(self, name: str) -> Path:
        self.check(name)
        return self._folder / name
