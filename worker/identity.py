"""What a loaded model can be told by, so that nobody takes another's keys, values or answers for its own.

startup.py asks for it: files of keys and values carry the cache's identity, and workers on different hosts are compared
by that and by their vocabularies. Invariant: both are made of facts and bits that are the same on every host and
instruction set, and two models of one cache identity compute the same for the same tokens, bit by bit.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from worker.cache.kv_file import IDENTITY_BYTES
from worker.metadata import TOKENIZER
from worker.model.architecture import Architecture
from worker.model.decoder import BLOCK_SIZE, Decoder

_VOCABULARY_BYTES = 32


def cache_identity(decoder: Decoder) -> bytes:
    """IDENTITY_BYTES that stand for what is computed for tokens. Block 0 must not be in use yet: it is written to.

    The file's weights and numbers decide that, and rotations, which the user may change. The kernels and the types of
    the cache have their part in the keys and values of a block.
    """
    digest = hashlib.blake2b(decoder.content, digest_size=IDENTITY_BYTES)
    digest.update(_numbers(decoder.architecture).encode())
    for table in decoder.rotation_tables:  # an angle too small to be seen in keys of 16 bits is a large one further on
        digest.update(table[:BLOCK_SIZE].tobytes())
    digest.update(_first_block(decoder))
    return digest.digest()


def _numbers(a: Architecture) -> str:
    """All of them; but a long context makes a difference only to models that have other rotations for it."""
    rotation, local_rotation = (replace(each, goes_beyond=False) for each in (a.rotation, a.local_rotation))
    return repr(replace(a, rotation=rotation, local_rotation=local_rotation))


def _first_block(decoder: Decoder) -> bytes:
    tokens = np.arange(BLOCK_SIZE, dtype=np.int32) % decoder.vocab_size
    starts, zero = np.array([0, BLOCK_SIZE], np.int32), np.zeros(1, np.int32)
    decoder.forward(tokens, starts, zero, zero.reshape(1, 1), zero[:0])
    return decoder.read_block(0)


def vocabulary_digest(metadata: Mapping[str, Any]) -> bytes:
    """Stands for all that a file says about which text makes which tokens."""
    digest = hashlib.blake2b(digest_size=_VOCABULARY_BYTES)
    for key in sorted(key for key in metadata if key.startswith(TOKENIZER)):
        value = metadata[key]
        told = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
        digest.update(f"{key} {len(told)} ".encode() + told)
    return digest.digest()
