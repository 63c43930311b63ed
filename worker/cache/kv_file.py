"""Files of keys and values: how they are written so that a reader gets exactly what was saved, or nothing.

    magic | identity | checksum | size of key | size of payload | key | payload

The identity stands for the model and everything else that the values depend on; the checksum covers key and payload.
slot_files.py and prefix_store.py call it. Invariant: a file appears whole, by a rename, for this user alone.
"""

import hashlib
import os
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path

IDENTITY_BYTES = 32
_MAGIC = b"CORRALKV"
_HEADER = struct.Struct("<8s32s32sqq")
Content = bytes | memoryview
HEADER_BYTES = _HEADER.size  # of a file, besides its key and its payload


class Unusable(Exception):
    """The file is damaged, of another model, or no such file at all."""


def write(path: Path, identity: bytes, key: bytes, payload: Iterable[Content]) -> int:
    """Returns the size of the file in bytes. Raises OSError."""
    parts = list(payload)
    size = sum(map(len, parts))
    header = _HEADER.pack(_MAGIC, identity, _checksum(key, parts), len(key), size)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
        try:
            file.writelines((header, key, *parts))
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    return HEADER_BYTES + len(key) + size


def read(path: Path, identity: bytes, most: int) -> tuple[bytes, memoryview]:
    """Key and payload of a file of at most `most` bytes; the payload is not copied. Raises Unusable."""
    try:
        # A link may lead to a file that is not ours to show, and a pipe would never end.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            content = memoryview(file.read(min(os.fstat(file.fileno()).st_size, most) + 1))
    except OSError as error:
        raise Unusable(error.strerror or str(error)) from None
    if len(content) > most:
        raise Unusable(f"it is larger than {most} bytes")
    if len(content) < HEADER_BYTES:
        raise Unusable("it is cut off")
    magic, owner, checksum, key_size, size = _HEADER.unpack_from(content)
    if magic != _MAGIC:
        raise Unusable("it is not a file of keys and values")
    if owner != identity:
        raise Unusable("it belongs to another model, or to another version or setting of this one")
    if min(key_size, size) < 0 or len(content) != HEADER_BYTES + key_size + size:
        raise Unusable("it is cut off")
    key, payload = bytes(content[HEADER_BYTES : HEADER_BYTES + key_size]), content[HEADER_BYTES + key_size :]
    if checksum != _checksum(key, [payload]):
        raise Unusable("it is damaged")
    return key, payload


def _checksum(key: bytes, parts: Iterable[Content]) -> bytes:
    digest = hashlib.blake2b(len(key).to_bytes(8, "little") + key, digest_size=32)
    for part in parts:
        digest.update(part)
    return digest.digest()
