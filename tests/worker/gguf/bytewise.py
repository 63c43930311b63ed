"""GGUF files byte by byte, so that each number in them can be wrong."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from worker.errors import GGUFError, ModelFileError
from worker.gguf import GGUF
from worker.metadata import ValueType

F32, F16, Q4_1 = 0, 1, 3
ARRAY, STRING, U32, BOOL = ValueType.ARRAY, ValueType.STRING, ValueType.UINT32, ValueType.BOOL
MEBIBYTE = 1 << 20


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return u64(len(raw)) + raw


def key(name: str | bytes, type: int, value: bytes) -> bytes:
    return text(name) + u32(type) + value


def array(type: int, count: int, values: bytes = b"") -> bytes:
    return u32(type) + u64(count) + values


@dataclass(frozen=True)
class Tensor:
    name: str | bytes = "weight"
    shape: Sequence[int] = (4,)  # in the file's order
    type: int = F32
    offset: int = 0
    num_dimensions: int | None = None

    def entry(self) -> bytes:
        num_dimensions = len(self.shape) if self.num_dimensions is None else self.num_dimensions
        dimensions = b"".join(u64(length) for length in self.shape)
        return text(self.name) + u32(num_dimensions) + dimensions + u32(self.type) + u64(self.offset)


def file(
    keys: Sequence[bytes] = (),
    tensors: Sequence[Tensor] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: bytes = u32(3),
    num_tensors: int | None = None,
    num_keys: int | None = None,
    alignment: int = 32,
) -> bytes:
    num_tensors = len(tensors) if num_tensors is None else num_tensors
    num_keys = len(keys) if num_keys is None else num_keys
    head = magic + version + u64(num_tensors) + u64(num_keys) + b"".join(keys)
    head += b"".join(tensor.entry() for tensor in tensors)
    return head + bytes(-len(head) % alignment) + data


STRINGS = key("words", ValueType.ARRAY, array(ValueType.STRING, 3, text("a") + text(b"\xff\xfe") + text("")))

NUMBERS = key("numbers", ValueType.ARRAY, array(ValueType.INT32, 2, struct.pack("<2i", -1, 2)))

NAME = key("general.name", ValueType.STRING, text("tiny"))

DATA = np.arange(8, dtype="<f4").tobytes() + bytes(20)

GOOD = file([NAME, STRINGS, NUMBERS], [Tensor("norm", (4, 2)), Tensor("blk", (32,), Q4_1, 32)], DATA)


def open_bytes(path: Path, content: bytes) -> GGUF:
    path.write_bytes(content)
    return GGUF.open(path)


def refusal(path: Path, content: bytes, error: type[ModelFileError] = GGUFError) -> str:
    """The message with which these bytes are refused: one line that begins with the file's path."""
    path.write_bytes(content)
    with pytest.raises(error) as caught:
        GGUF.open(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < len(str(path)) + 500
    return message


def resident_bytes(path: Path) -> int:
    """How much of this file, mapped once, is in this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    next(line for line in lines if line.endswith(str(path)))
    return 1024 * int(next(line for line in lines if line.startswith("Rss:")).split()[1])


def split_keys(number: int, count: int, num_tensors: int) -> list[bytes]:
    return [
        key("split.no", ValueType.UINT16, struct.pack("<H", number)),
        key("split.count", ValueType.UINT16, struct.pack("<H", count)),
        key("split.tensors.count", ValueType.INT32, struct.pack("<i", num_tensors)),
    ]
