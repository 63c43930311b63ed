"""A file mapped into memory, and a cursor that walks it from front to back, never past its end.

Called by the GGUF reader. Invariant: the offset never passes the end of the file, and a step that would is a GGUFError
of one line: the file's path, what was to be read, how many bytes it needs, how many are left, and where.
"""

import mmap
import stat
import struct
from pathlib import Path
from typing import Any

from worker.errors import GGUFError

UINT32 = struct.Struct("<I")
UINT64 = struct.Struct("<Q")


def map_file(path: Path) -> mmap.mmap:
    """The file as read-only memory."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise GGUFError(f"{path}: not a regular file")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise GGUFError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise GGUFError(f"{path}: the file is empty, 0 bytes") from None


def shown(value: object) -> str:
    """For a message of one line: quoted, escaped, short."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:76]}..."


class Cursor:
    """Walks a file from front to back; each step is checked against what is left of it."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.offset = 0

    def error(self, what: str, offset: int | None = None) -> GGUFError:
        return GGUFError(f"{self.path}: {what} (at byte {self.offset if offset is None else offset})")

    def claim(self, num_bytes: int, what: str) -> int:
        """Steps over the next bytes and returns where they begin."""
        begin = self.offset
        if num_bytes > self.size - begin:
            raise self.error(f"{what}: {num_bytes} bytes needed, {self.size - begin} left in the file")
        self.offset = begin + num_bytes
        return begin

    def number(self, layout: struct.Struct, what: str) -> Any:
        return layout.unpack_from(self.data, self.claim(layout.size, what))[0]

    def count(self, item_bytes: int, what: str) -> int:
        """A count of items, of which each takes at least `item_bytes` from here on."""
        begin = self.offset
        count: int = self.number(UINT64, f"number of {what}")
        if count * item_bytes > self.size - self.offset:
            raise self.error(f"{count} {what} cannot fit into {self.size - self.offset} bytes", begin)
        return count

    def string(self, what: str, limit: int | None = None) -> bytes:
        begin = self.offset
        length: int = self.number(UINT64, f"length of {what}")
        if limit is not None and length > limit:
            raise self.error(f"{what} has {length} bytes, at most {limit} are allowed", begin)
        begin = self.claim(length, what)
        return self.data[begin : begin + length]

    def name(self, what: str, limit: int | None = None) -> str:
        begin = self.offset
        try:
            return self.string(what, limit).decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8: {error.reason} at its byte {error.start}", begin) from None

    def strings(self, count: int, what: str) -> list[bytes]:
        """As `string`, for vocabularies of half a million: one tight loop."""
        data, size, offset = self.data, self.size, self.offset
        read_length = UINT64.unpack_from
        strings: list[bytes] = []
        try:
            for _ in range(count):
                begin = offset + 8
                end = begin + read_length(data, offset)[0]
                if end > size:
                    break
                strings.append(data[begin:end])
                offset = end
        except struct.error:
            pass  # not even the eight bytes of a length are left
        self.offset = offset
        if len(strings) < count:
            self.string(f"string {len(strings)} of {count} of {what}")  # the same step, for its error
        return strings
