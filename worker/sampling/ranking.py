"""Kernels for candidates in an order that nobody has sorted them by: a key each, and places where the weight lies.

candidates.py calls them. A key is an int64; the least comes first, and of equal ones the one that stands first. Where
in that order a share of the weight is reached is found by adding up weights by the keys' leading bits, and then again
among the candidates with the bits found: linear, whatever the numbers are. Invariant: as in vocabulary.py.
"""

import numpy as np
from numba import float32, float64, int32, int64, void

from worker.kernels.jit import entry, kernel

_DIGIT_BITS = 12
NUM_BUCKETS = 1 << _DIGIT_BITS
_SHIFTS = (52, 40, 28, 16, 4, 0)  # of a key's digits; the last overlaps the one before it
_SIGN = 1 << 31
_MAGNITUDE = np.int32(0x7FFFFFFF)
_MINUS_ZERO = np.int32(-0x80000000)
_MOST_SURPRISING = np.float32(87.33655)  # of the least probability that is a normal f32


@kernel
def _descending(bits):
    """The bits of a f32 as an integer that is the less, the larger the number is."""
    ordered = np.int32(0) if bits == _MINUS_ZERO else bits ^ ((bits >> np.int32(31)) & _MAGNITUDE)
    return ~np.int64(ordered)


@entry(void(int32[::1], int64, int64[::1]))
def rank_descending(bits, num, keys):
    """Keys for the descending order of [num] logits, given as their bits."""
    for i in range(num):
        keys[i] = _descending(bits[i]) << 32


@entry(void(float32[::1], int32[::1], int64, float32, float32, int32[::1], int64[::1]))
def rank_typical(logits, bits, num, certain, entropy, distances, keys):
    """Keys for how far the surprise of [num] logits is from the entropy; of those equally far, the largest first.

    bits: of the logits; certain: the logit of a token without any surprise; distances: scratch, (num,).
    """
    floats = distances.view(np.float32)
    for i in range(num):
        floats[i] = abs(min(certain - logits[i], _MOST_SURPRISING) - entropy)
    for i in range(num):
        keys[i] = (np.int64(distances[i]) << 32) | (_descending(bits[i]) + _SIGN)


@kernel
def _digit(key, level):
    """Of a key's digits, the first being that of the sign: negative keys come first."""
    digit = (key >> _SHIFTS[level]) & (NUM_BUCKETS - 1)
    return digit ^ (NUM_BUCKETS >> 1) if level == 0 else digit


@kernel
def _first_reaching(sums, before, target):
    """The first bucket that has a weight and with which the sum reaches `target`, and the sum before it; at least the
    last that has one."""
    last, sum_before_last = 0, before
    for bucket in range(NUM_BUCKETS):
        if sums[bucket] > 0.0:
            last, sum_before_last = bucket, before
            before += sums[bucket]
            if before >= target:
                break
    return last, sum_before_last


@entry(int64(int64[::1], float32[::1], int64, float64, int32[::1], float64[::1]))
def reach(keys, weights, num, target, members, sums):
    """Where the running sum of [num] weights, in the order of the keys, reaches `target` at a candidate that has a
    weight, or the last of those. members, (num,), and sums, (NUM_BUCKETS,), are scratch."""
    for i in range(num):
        members[i] = i
    before = 0.0
    for level in range(6):
        sums[:] = 0.0
        for m in range(num):
            sums[_digit(keys[members[m]], level)] += weights[members[m]]
        bucket, before = _first_reaching(sums, before, target)
        num_found = 0
        for m in range(num):
            if _digit(keys[members[m]], level) == bucket:
                members[num_found] = members[m]
                num_found += 1
        num = num_found
        if num == 1:
            return members[0]
    found = members[0]
    for m in range(num):
        if weights[members[m]] > 0.0:
            found = members[m]
            before += weights[found]
            if before >= target:
                break
    return found


@entry(int64(int64[::1], int64, int64, int64, float32[::1], int32[::1]))
def divide_at(keys, num, place, keeps_last, picked, ids):
    """Of [num] candidates, keeps those up to the one at `place` in the order of the keys, or, with keeps_last, those
    behind it; they stay as they stand. How many."""
    edge, num_kept = keys[place], 0
    for i in range(num):
        is_first = keys[i] < edge or (keys[i] == edge and i <= place)
        if is_first != (keeps_last != 0):
            keys[num_kept], picked[num_kept], ids[num_kept] = keys[i], picked[i], ids[i]
            num_kept += 1
    return num_kept


KERNELS = (rank_descending, rank_typical, reach, divide_at)
