"""GGUF files, versions 2 and 3, little endian: metadata as Python values, tensors as views of a read-only mapping.

Called when a worker starts: by the loader (tensors), the tokenizer and the chat template (metadata). Invariant: when
`GGUF.open` returns, every count, length, offset and product in the file has been compared with the file's size, in
Python integers; nothing that is read afterwards can leave the mapping, and nothing was allocated that the file's size
does not justify. A file that fails is refused with one line: its path, what is wrong, the number, the byte offset.

Metadata outlives the file: see metadata.py for what its values are.
"""

import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from worker.cursor import UINT32, UINT64, Cursor, map_file, shown
from worker.errors import GGUFError, ModelFileError, UnsupportedModel
from worker.metadata import ALIGNMENT_KEY, MIN_KEY_BYTES, read_metadata
from worker.quants import QuantType, quant_type

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4

# The least that an entry can take, so that their count can be refused before the first is read.
MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8  # name length, number of dimensions, one dimension, type, offset

_PART_NAME = re.compile(r"(?P<stem>.*)-\d{5}-of-(?P<count>\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor and its bytes. `shape` is in NumPy's order: the last axis is contiguous (the file's first dimension)."""

    name: str
    type: QuantType
    shape: tuple[int, ...]
    data: NDArray[np.uint8]  # (bytes,), read-only, a view of the mapping
    part: int  # which file of a split model holds it, from 0
    offset: int  # where its data begin in that file


class GGUF:
    """An open model: one file, or all parts of a split one. A context manager."""

    def __init__(self, parts: list["_Part"]) -> None:
        self._parts = parts
        self.path: Path = parts[0].path
        self.version: int = parts[0].version
        self.metadata: Mapping[str, Any] = MappingProxyType(parts[0].metadata)
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(_joined(parts))
        self.size_bytes: int = sum(len(part.mapping) for part in parts)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens the file, and with the first part of a split model all the others. GGUFError, UnsupportedModel."""
        first = _Part.open(path, 0)
        return cls([first, *_other_parts(first)])

    def release(self, tensor: TensorInfo) -> None:
        """Lets go of the memory behind a tensor that has been repacked; a later read fetches it from the file again."""
        begin = tensor.offset - tensor.offset % mmap.PAGESIZE
        self._parts[tensor.part].release(begin, tensor.offset + tensor.data.nbytes - begin)

    def close(self) -> None:
        """Forgets the tensors. A mapping goes away with the last view into it, at once if nobody kept one."""
        self.tensors = MappingProxyType({})
        self._parts.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class _Part:
    """One file of a model, fully checked."""

    path: Path
    mapping: mmap.mmap
    version: int
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]

    @classmethod
    def open(cls, path: Path, number: int) -> "_Part":
        mapping = map_file(path)
        try:
            part = cls._read(Cursor(path, mapping), number)
        except ModelFileError:
            mapping.close()
            raise
        return part

    @classmethod
    def _read(cls, cursor: Cursor, number: int) -> "_Part":
        version = _read_version(cursor)
        num_tensors = cursor.count(MIN_TENSOR_BYTES, "tensors")
        num_keys = cursor.count(MIN_KEY_BYTES, "metadata keys")
        metadata = read_metadata(cursor, num_keys)
        alignment = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
        tensors = _read_tensors(cursor, num_tensors, alignment, number)
        part = cls(cursor.path, cursor.data, version, metadata, tensors)
        part.release(0, cursor.offset)
        return part

    def release(self, offset: int, length: int) -> None:
        """`offset` is a multiple of the page size."""
        if length:
            self.mapping.madvise(mmap.MADV_DONTNEED, offset, length)


def _read_version(cursor: Cursor) -> int:
    begin = cursor.claim(len(MAGIC), "magic")
    if (magic := cursor.data[begin : cursor.offset]) != MAGIC:
        raise cursor.error(f"not a GGUF file: it begins with {magic!r}, not {MAGIC!r}", begin)
    begin = cursor.offset
    version: int = cursor.number(UINT32, "version")
    if version in VERSIONS:
        return version
    if version and version % 65536 == 0:
        raise cursor.error(f"a big-endian GGUF file (version {version:#x}); only little-endian ones are read", begin)
    raise cursor.error(f"GGUF version {version}; versions {' and '.join(map(str, VERSIONS))} are read", begin)


@dataclass(frozen=True)
class _Entry:
    """What the file says of a tensor, before its data have been found."""

    begin: int  # of the entry in the file
    name: str
    type: QuantType
    shape: tuple[int, ...]
    num_bytes: int
    offset: int  # from the beginning of the data

    @property
    def label(self) -> str:
        return f"tensor {shown(self.name)}"


def _read_tensors(cursor: Cursor, num_tensors: int, alignment: int, part: int) -> dict[str, TensorInfo]:
    entries = {}
    for number in range(num_tensors):
        entry = _read_entry(cursor, f"tensor {number} of {num_tensors}")
        if entry.name in entries:
            raise cursor.error(f"{entry.label} appears twice", entry.begin)
        if entry.offset % alignment:
            raise cursor.error(f"{entry.label} has offset {entry.offset}, no multiple of {alignment}", entry.begin)
        entries[entry.name] = entry
    data_begin = cursor.offset + -cursor.offset % alignment
    _check_places(cursor, sorted(entries.values(), key=lambda entry: entry.offset), data_begin)
    data = np.frombuffer(cursor.data, np.uint8)
    tensors = {}
    for entry in entries.values():
        begin = data_begin + entry.offset
        view = data[begin : begin + entry.num_bytes]
        tensors[entry.name] = TensorInfo(entry.name, entry.type, entry.shape, view, part, begin)
    return tensors


def _read_entry(cursor: Cursor, what: str) -> _Entry:
    begin = cursor.offset
    name = cursor.name(f"name of {what}")
    label = f"tensor {shown(name)}"
    num_dimensions: int = cursor.number(UINT32, f"number of dimensions of {label}")
    if not 1 <= num_dimensions <= MAX_DIMENSIONS:
        raise cursor.error(f"{label} has {num_dimensions} dimensions, not 1 to {MAX_DIMENSIONS}", begin)
    dimensions = [cursor.number(UINT64, f"dimension {axis} of {label}") for axis in range(num_dimensions)]
    if 0 in dimensions:
        raise cursor.error(f"{label} has a dimension of 0", begin)
    id: int = cursor.number(UINT32, f"type of {label}")
    length, *outer = dimensions
    try:
        type = quant_type(id)
        num_bytes = type.row_bytes(length)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{cursor.path}: {label}: {error} (at byte {begin})") from None
    except ValueError as error:
        raise cursor.error(f"{label}: {error}", begin) from None
    for dimension in outer:
        num_bytes *= dimension
    offset = cursor.number(UINT64, f"offset of {label}")
    return _Entry(begin, name, type, tuple(reversed(dimensions)), num_bytes, offset)


def _check_places(cursor: Cursor, entries: list[_Entry], data_begin: int) -> None:
    """The entries, in the order of their offsets, lie in the file and do not share bytes."""
    end = 0
    for entry in entries:
        if entry.offset < end:
            raise cursor.error(f"{entry.label} with offset {entry.offset} overlaps the one before it", entry.begin)
        end = entry.offset + entry.num_bytes
        if data_begin + end > cursor.size:
            raise cursor.error(
                f"{entry.label} ends at byte {data_begin + end}, the file at {cursor.size}: damaged or cut short",
                entry.begin,
            )


def _other_parts(first: _Part) -> Iterator[_Part]:
    """The parts after the first one; GGUFError names what is missing or does not belong."""
    count = _split_number(first, "split.count", 1)
    if count <= 1:
        return
    name = _PART_NAME.fullmatch(first.path.name)
    if name is None or int(name["count"]) != count:
        raise GGUFError(f"{first.path}: part of a model of {count} files, but not named NAME-00001-of-{count:05}.gguf")
    paths = [first.path.with_name(f"{name['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    if (number := _split_number(first, "split.no", 0)) != 0 or first.path != paths[0]:
        raise GGUFError(f"{first.path}: part {number + 1} of {count} of a model; open the first, {paths[0].name}")
    num_tensors = len(first.tensors)
    for number, path in enumerate(paths[1:], 1):
        if not path.exists():
            raise GGUFError(f"{first.path}: part {number + 1} of {count} is missing: {path}")
        part = _Part.open(path, number)
        found = _split_number(part, "split.no", 0), _split_number(part, "split.count", 1)
        if found != (number, count):
            raise GGUFError(f"{path}: says it is part {found[0] + 1} of {found[1]}, not {number + 1} of {count}")
        num_tensors += len(part.tensors)
        yield part
    expected = _split_number(first, "split.tensors.count", num_tensors)
    if num_tensors != expected:
        raise GGUFError(f"{first.path}: the {count} parts hold {num_tensors} tensors, not {expected}")


def _split_number(part: _Part, key: str, default: int) -> int:
    value = part.metadata.get(key, default)
    if type(value) is not int or value < 0:
        raise GGUFError(f"{part.path}: {key} is {shown(value)}, not a count")
    return value


def _joined(parts: list[_Part]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for part in parts:
        if both := tensors.keys() & part.tensors.keys():
            raise GGUFError(f"{part.path}: tensor {shown(min(both))} is also in another part")
        tensors.update(part.tensors)
    return tensors
