"""Kernels that leave out candidates: which of them stay is decided 16 at a time, and what stays keeps its order.

candidates.py calls them, ranking.py has one more of the kind. Places of what stays are written eight at once, from a
table that knows which of eight bits are set, so that it costs the same whatever they are. Invariant: as in
vocabulary.py; and what is kept may be written over what it is taken from, because nobody moves backwards.
"""

import numpy as np
from llvmlite import ir
from numba import boolean, float32, int32, int64, types
from numba.extending import intrinsic

from worker.kernels import llvm
from worker.kernels.jit import entry, kernel
from worker.kernels.memory import load, load_scalar, load_scalar_i32, store_scalar, store_scalar_i32
from worker.kernels.simd import F32, LANES, select_below, splat, where_below
from worker.sampling.vocabulary import GROUP, address

_ONE, _ZERO = np.float32(1), np.float32(0)
_ALL = (1 << LANES) - 1
# Row b: the numbers of the bits that are set in b, lowest first, and zeros.
_SET_BITS = np.array([([i for i in range(8) if b >> i & 1] + [0] * 8)[:8] for b in range(256)], np.uint8)


@intrinsic
def marks(typing, flags):
    """An integer whose bit i says whether lane i is above 0."""

    def lower(context, b, signature, arguments):
        is_set = b.fcmp_ordered(">", arguments[0], llvm.constant(F32.llvm, 0.0))
        return b.zext(b.bitcast(is_set, ir.IntType(LANES)), llvm.I64)

    return types.int64(F32), lower


@intrinsic
def _write_places(typing, address, table_row, first):
    """Writes eight i32: first + the bytes of a row."""

    def lower(context, b, signature, arguments):
        lanes = ir.VectorType(llvm.I32, 8)
        offsets = b.zext(llvm.load(b, arguments[1], ir.VectorType(llvm.I8, 8), 1), lanes)
        first = llvm.splat(b, b.trunc(arguments[2], llvm.I32), 8)
        llvm.store(b, b.add(offsets, first), arguments[0], 4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), lower


@intrinsic
def _num_set(typing, bits):
    return types.int64(types.int64), lambda context, b, signature, arguments: b.ctpop(arguments[0])


@kernel
def append_places(places_at, num, first, bits):
    """Puts first + i for each of 16 bits i that is set behind [num] places: how many they are then. What follows them
    up to 8 places on is overwritten."""
    low, high, table_at = bits & 0xFF, bits >> 8, address(_SET_BITS)
    _write_places(places_at + 4 * num, table_at + 8 * low, first)
    num += _num_set(low)
    _write_places(places_at + 4 * num, table_at + 8 * high, first + 8)
    return num + _num_set(high)


@entry(int64(float32[::1], float32[::1], float32, int64, float32[::1], int32[::1]))
def collect(values, peaks, lowest, last, picked, ids):
    """Puts all values above `lowest`, and those that equal it up to place `last`, into `picked`, in their order, and
    where they stood into `ids`. How many."""
    source, numbers, places, num = address(values), address(picked), address(ids), 0
    for group in range(peaks.size):
        if peaks[group] >= lowest:
            for i in range(group * GROUP, group * GROUP + GROUP, LANES):
                value = load(source + 4 * i)
                above = where_below(splat(lowest), value, splat(_ONE), splat(_ZERO))
                from_it_up = where_below(value, splat(lowest), splat(_ZERO), splat(_ONE))
                num = append_places(places, num, i, marks(select_below(np.int32(last + 1 - i), from_it_up, above)))
    for k in range(num):
        store_scalar(numbers + 4 * k, load_scalar(source + 4 * np.int64(load_scalar_i32(places + 4 * k))))
    return num


@entry(int64(float32[::1], float32[::1], int32[::1], int64, int64, boolean, float32[::1], float32[::1], int32[::1],
             int32[::1]))  # fmt: skip
def divide_at(keys, logits, ids, num, place, keeps_last, kept_keys, kept_logits, kept_ids, places):
    """Of [num] candidates, keeps those up to the one at `place` in order or, with keeps_last, that one and those behind
    it; they stay as they stand. How many. places: scratch for as many, padded to whole groups."""
    key_at, logit_at, places_at, num_kept = address(keys), address(logits), address(places), 0
    edge_key, edge_logit, one, zero = splat(keys[place]), splat(logits[place]), splat(_ONE), splat(_ZERO)
    first_equals = place if keeps_last else place + 1  # so many of all that equal the edge come before it
    for i in range(0, num, LANES):
        key, logit = load(key_at + 4 * i), load(logit_at + 4 * i)
        before = select_below(np.int32(first_equals - i), one, zero)
        before = where_below(edge_logit, logit, one, where_below(logit, edge_logit, zero, before))
        before = where_below(edge_key, key, one, where_below(key, edge_key, zero, before))
        bits = marks(select_below(np.int32(num - i), one, zero)) & (marks(before) ^ (_ALL if keeps_last else 0))
        num_kept = append_places(places_at, num_kept, i, bits)
    sources = key_at, logit_at, address(ids)
    targets = address(kept_keys), address(kept_logits), address(kept_ids)
    for k in range(num_kept):
        at = 4 * np.int64(load_scalar_i32(places_at + 4 * k))
        store_scalar(targets[0] + 4 * k, load_scalar(sources[0] + at))
        store_scalar(targets[1] + 4 * k, load_scalar(sources[1] + at))
        store_scalar_i32(targets[2] + 4 * k, load_scalar_i32(sources[2] + at))
    return num_kept


KERNELS = (collect, divide_at)
