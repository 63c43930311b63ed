"""Types of keys and values in the cache, and what their pages have in common.

A page holds 16 positions of one KV head. Keys lie by dimension, 16 positions side by side, so that 16 scores are the
lanes of a vector without a transpose. Values lie by column of 16 dimensions, position after position. cache_numbers.py
and cache_codes.py say what that is byte for byte; cache_pages.py is what attention and the decoder use.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from worker.kernels import llvm
from worker.kernels.codes import BLOCK
from worker.kernels.jit import kernel
from worker.kernels.memory import load_scalar_i32
from worker.kernels.simd import LANES, splat, where_below

PAGE = LANES  # positions in a page
ROW_BYTES = 4 * PAGE  # of a row of weights for a page

_LARGEST_F16 = np.float32(65504)


@dataclass(frozen=True)
class CacheType:
    """A type of keys or values, named as in ggml."""

    name: str
    number: str = ""  # of number_formats, for types that store each value by itself
    number_bytes: int = 0
    code_bits: int = 0  # for the others: of a value under a scale for 32

    def page_bytes(self, head_dim: int) -> int:
        """Bytes of one KV head's page."""
        if self.number:
            return PAGE * head_dim * self.number_bytes
        return head_dim // BLOCK * self.group_bytes

    @property
    def group_bytes(self) -> int:
        """Bytes of 32 dimensions of a page under scales."""
        return PAGE * (2 + BLOCK * self.code_bits // 8)


CACHE_TYPES: dict[str, CacheType] = {
    cache_type.name: cache_type
    for cache_type in (
        CacheType("f32", "F32", 4),
        CacheType("f16", "F16", 2),
        CacheType("bf16", "BF16", 2),
        CacheType("q8_0", code_bits=8),
        CacheType("q4_0", code_bits=4),
    )
}


@kernel
def page_offset(table, index, page_bytes):
    """Bytes from the first page of the cache to the one that stands at `index` of a table of i32 page numbers."""
    return np.int64(load_scalar_i32(table + 4 * index)) * page_bytes


@intrinsic(prefer_literal=True)
def pages_at(typing: Any, first: Any, page_bytes: Any, table: Any, index: Any, count: Any) -> Any:
    """Addresses of the pages at `index` of a table and behind it, `count` of them (a constant); first: of page 0."""
    number = count.literal_value

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        first, page_bytes, table, index, _ = arguments
        entries = b.add(table, b.mul(index, llvm.I64(4)))
        numbers = [llvm.load(b, llvm.offset(b, entries, 4 * place), llvm.I32, 4) for place in range(number)]
        places = [b.add(first, b.mul(b.sext(each, llvm.I64), page_bytes)) for each in numbers]
        return context.make_tuple(b, signature.return_type, places)

    return types.UniTuple(types.intp, number)(*(types.intp,) * 4, count), lower


@kernel
def bounded(values):
    """The nearest values that f16 can hold and that are finite."""
    above = where_below(values, splat(-_LARGEST_F16), splat(-_LARGEST_F16), values)
    return where_below(splat(_LARGEST_F16), values, splat(_LARGEST_F16), above)
