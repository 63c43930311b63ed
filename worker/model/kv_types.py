"""The types that keys and values can be cached in, by llama.cpp's names, and the room that they take.

load.py asks before anything is packed, the decoder sizes its cache by it. Invariant: a name in this table is one that
the attention kernels read and write.
"""

from dataclasses import dataclass

from worker.errors import UnsupportedModel


@dataclass(frozen=True)
class KvType:
    """A block of `num_values` takes `num_bytes`."""

    name: str
    num_values: int
    num_bytes: int

    def size(self, num_values: int) -> int:
        """Bytes of so many values, which are whole blocks."""
        return num_values // self.num_values * self.num_bytes


KV_TYPES = {kv_type.name: kv_type for kv_type in (KvType("f16", 1, 2),)}


def kv_type(name: str) -> KvType:
    """Raises UnsupportedModel naming what can be had."""
    if name not in KV_TYPES:
        supported = ", ".join(KV_TYPES)
        raise UnsupportedModel(f"KV cache type {name!r} (--cache-type-k, -v) is not supported; supported: {supported}")
    return KV_TYPES[name]
