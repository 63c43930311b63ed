"""Packed weights: the model's tensors as the kernels read them, in one file that all replicas map.

The file is written once, next to other models' in the cache folder, under a name made of the GGUF's content; it appears
by an atomic rename, so that a reader sees a whole file or none, and carries a checksum, for disks that lose what they
were given. Where it cannot be written, the same bytes live in anonymous memory. load.py decides what is packed; this
module knows how it lies. Invariant: what is used was completely written by this version of the layout.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import mmap
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.errors import GGUFError
from worker.gguf import GGUF, TensorInfo
from worker.kernels import panels

LAYOUT_VERSION = 2
ALIGNMENT = 4096  # of the data and of every tensor's start: whole pages can be shared and dropped
_MAGIC = b"CORRALPK"
_SAMPLE = 4096
_NAME_LENGTH = 32
_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class PackedTensor:
    """Matrices in panels, one behind the other, or a vector of f32 (format is None)."""

    address: int
    format: panels.PanelFormat | None
    num_matrices: int
    num_rows: int
    num_columns: int


@dataclass(frozen=True)
class _Place:
    tensor: TensorInfo
    format: panels.PanelFormat | None
    num_matrices: int
    num_rows: int
    num_columns: int
    offset: int
    num_bytes: int


class PackedWeights:
    """The packed tensors of one model by GGUF name, mapped or in memory until `close`."""

    def __init__(self, memory: mmap.mmap, places: list[_Place], content: bytes) -> None:
        """`content`: the SHA-256 of the tensors, as they are in the GGUF."""
        self.content = content
        self._memory = memory
        self._view = np.frombuffer(memory, np.uint8)
        base = self._view.ctypes.data
        self.num_bytes = len(memory)
        self.tensors: Mapping[str, PackedTensor] = {
            p.tensor.name: PackedTensor(base + p.offset, p.format, p.num_matrices, p.num_rows, p.num_columns)
            for p in places
        }

    def vector(self, name: str) -> NDArray[np.float32]:
        """A packed vector's values, as a view."""
        tensor = self.tensors[name]
        start = tensor.address - self._view.ctypes.data
        return self._view[start : start + 4 * tensor.num_columns].view(np.float32)

    def lock(self) -> None:
        """Keeps the pages in memory. Where the system does not allow it, a warning says what its limit is."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlock(ctypes.c_void_p(self._view.ctypes.data), ctypes.c_size_t(self.num_bytes)) == 0:
            return
        limit, reason = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0], os.strerror(ctypes.get_errno())
        print(
            f"warning: the weights ({self.num_bytes} bytes) are not locked in memory: {reason}; "
            f"the limit is {limit} bytes (ulimit -l, or LimitMEMLOCK= of a service)",
            file=sys.stderr,
        )

    def close(self) -> None:
        """Unmaps. No address may be used afterwards."""
        self.tensors = {}
        del self._view
        self._memory.close()


def pack_weights(
    gguf: GGUF, folder: Path | None, progress: Callable[[float], None], *, mapped: bool = True
) -> PackedWeights:
    """The model's packed file in `folder`, written first if it is not there: mapped, or copied into memory."""
    places, size = _lay_out(gguf)
    content = _content(gguf) if folder is None else _known_content(gguf, folder)
    if folder is not None:
        path = folder / f"{_packed_name(content)}.panels"
        try:
            memory = _map_whole(path, size) or _write_once(path, gguf, places, size, progress)
            return PackedWeights(memory if mapped else _copied(memory), places, content)
        except OSError as error:
            print(f"warning: packed weights stay in memory: {path}: {error.strerror}", file=sys.stderr)
    memory = _anonymous(size)
    _fill(np.frombuffer(memory, np.uint8), gguf, places, progress)
    return PackedWeights(memory, places, content)


def _anonymous(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _copied(memory: mmap.mmap) -> mmap.mmap:
    copy = _anonymous(len(memory))
    np.frombuffer(copy, np.uint8)[:] = np.frombuffer(memory, np.uint8)
    return copy


def _lay_out(gguf: GGUF) -> tuple[list[_Place], int]:
    places, offset = [], ALIGNMENT  # the first page is the header
    for tensor in gguf.tensors.values():
        if len(tensor.shape) > 3:
            raise GGUFError(f"tensor {tensor.name} has {len(tensor.shape)} dimensions, expected 1 to 3")
        num_matrices, num_rows, num_columns = (1, 1, *tensor.shape)[-3:]
        if len(tensor.shape) == 1:
            if tensor.type.name != "F32":
                raise GGUFError(f"tensor {tensor.name} is a vector of {tensor.type.name}, expected F32")
            form, num_bytes = None, 4 * num_columns
        else:
            form = panels.panel_format(tensor.name, tensor.type.name, num_columns)
            num_bytes = num_matrices * form.matrix_bytes(num_rows, num_columns)
        places.append(_Place(tensor, form, num_matrices, num_rows, num_columns, offset, num_bytes))
        offset += -(-num_bytes // ALIGNMENT) * ALIGNMENT
    return places, offset


def _fill(out: NDArray[np.uint8], gguf: GGUF, places: list[_Place], progress: Callable[[float], None]) -> None:
    for done, place in enumerate(places):
        progress(done / len(places))
        target = out[place.offset : place.offset + place.num_bytes]
        blocks = place.tensor.data.view(place.tensor.type.dtype)
        if place.format is None:
            target[:] = place.tensor.data
        else:
            matrices = blocks.reshape(place.num_matrices, place.num_rows, -1)
            for matrix, part in zip(matrices, target.reshape(place.num_matrices, -1), strict=True):
                panels.pack(place.format, matrix, part)
        gguf.release(place.tensor)
    progress(1.0)


def _packed_name(content: bytes) -> str:
    """A name for these weights in this layout."""
    return hashlib.sha256(f"{LAYOUT_VERSION} {sys.byteorder}".encode() + content).hexdigest()[:_NAME_LENGTH]


def _content(gguf: GGUF) -> bytes:
    """The SHA-256 of every tensor, as it is in the file: the same on every host, whatever it is packed into."""
    digest = hashlib.sha256()
    _add_tensors(digest, gguf, None)
    return digest.digest()


def _known_content(gguf: GGUF, folder: Path) -> bytes:
    """The same: reading a large file takes seconds, so it is remembered under what says that the file is unchanged."""
    stat = gguf.path.stat()
    identity = hashlib.sha256(f"{stat.st_dev} {stat.st_ino} {stat.st_mtime_ns} {gguf.size_bytes}".encode())
    _add_tensors(identity, gguf, _SAMPLE)
    remembered = folder / f"{identity.hexdigest()[:_NAME_LENGTH]}.name"
    with contextlib.suppress(OSError, ValueError):
        if len(content := bytes.fromhex(remembered.read_text())) == _DIGEST_BYTES:
            return content
    content = _content(gguf)
    with contextlib.suppress(OSError):  # whoever has to write more than a name will say what is wrong
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        remembered.write_text(content.hex())
    return content


def _add_tensors(digest: "hashlib._Hash", gguf: GGUF, most: int | None) -> None:
    """Names, types, shapes, and bytes: all, or at most so many from the middle of each tensor."""
    for tensor in gguf.tensors.values():
        digest.update(f"\0{tensor.name} {tensor.type.name} {tensor.shape}\0".encode())
        middle = 0 if most is None else max(0, (tensor.data.size - most) // 2)
        digest.update(tensor.data[middle : middle + (most or tensor.data.size)].data)
        gguf.release(tensor)


def _header(size: int, checksum: int) -> bytes:
    return _MAGIC + json.dumps({"version": LAYOUT_VERSION, "size": size, "checksum": checksum}).encode()


def _checksum(memory: mmap.mmap) -> int:
    """Of all behind the header. A sum of words, because it must be as fast as memory."""
    return int(np.frombuffer(memory, np.uint64, offset=ALIGNMENT).sum())


def _map_whole(path: Path, size: int) -> mmap.mmap | None:
    """The file's memory; None if there is no such file or it is damaged."""
    try:
        if path.stat().st_size != size:
            return None
        memory = _map(path)
    except FileNotFoundError:
        return None
    header = _header(size, _checksum(memory))
    return memory if memory[: len(header)] == header else None


def _write_once(
    path: Path, gguf: GGUF, places: list[_Place], size: int, progress: Callable[[float], None]
) -> mmap.mmap:
    """Writes the file, or waits for the worker that is writing it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(path.parent / "lock"):
        memory = _map_whole(path, size)
        if memory is None:
            _write_file(path, gguf, places, size, progress)
            memory = _map(path)
        return memory


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_file(
    path: Path, gguf: GGUF, places: list[_Place], size: int, progress: Callable[[float], None]
) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".packing-")
    try:
        os.posix_fallocate(descriptor, 0, size)  # a full disk is an error here, not a SIGBUS while packing
        memory = mmap.mmap(descriptor, size)  # goes away with the last view of it, after an error too
        _fill(np.frombuffer(memory, np.uint8), gguf, places, progress)
        header = _header(size, _checksum(memory))
        memory.flush()
        memory[: len(header)] = header
        os.rename(name, path)
    except BaseException:
        os.unlink(name)
        raise
    finally:
        os.close(descriptor)


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=mmap.PROT_READ)
