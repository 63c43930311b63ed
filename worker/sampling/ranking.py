"""The order of candidates: a sort for few; for many, places in an order that nobody has sorted them by.

candidates.py and weights.py call it. Each candidate has a key: the largest comes first, of equal ones that with the
larger logit, and then the one that stands first. Where in that order a share of the weight is reached is found by
adding up weights by how far below the largest the keys are, and among those about as far by their bits: linear,
whatever they are.
Invariant: as in vocabulary.py.
"""

import numpy as np
import numpy.typing as npt
from numba import float32, float64, int32, int64, void

from worker.kernels.jit import entry, kernel
from worker.kernels.memory import load, load_scalar, load_scalar_i32, store
from worker.kernels.simd import (
    LANES,
    absolute,
    bits_to_float,
    minimum,
    round_even,
    select_below,
    splat,
    to_float,
    where_below,
)
from worker.sampling.thinning import append_places, marks
from worker.sampling.vocabulary import GROUP, address

Places = npt.NDArray[np.int64]

_DIGIT_BITS = 12
NUM_BUCKETS = 1 << _DIGIT_BITS
_SHIFTS = (20, 8, 0)  # of the digits of a number's bits; the last overlaps the one before it
_LAST_BUCKET = np.float32(NUM_BUCKETS - 1)
_BUCKETS_PER_UNIT = np.float32(160)
_MAGNITUDE, _HALF = 0x7FFFFFFF, 1 << 31
_ZERO, _ONE = np.float32(0), np.float32(1)
_MOST_SURPRISING = np.float32(87.33655)  # of the least probability that is a normal f32


def descending(values: npt.NDArray[np.float32]) -> Places:
    """The order that sorts values downwards, equals as they stand: bits of a float, made to sort as it does, above its
    place, in one integer, for which there is a fast sort."""
    bits = (values + np.float32(0)).view(np.int32)  # no -0, which would sort below 0
    order = ~(bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF)))
    keys = (order.astype(np.int64) << 32) | np.arange(values.size)
    keys.sort()
    return keys & 0xFFFFFFFF


@entry(void(float32[::1], int64, float32, float32, float32[::1]))
def rank_typical(logits, num, certain, entropy, keys):
    """Keys by which the surprise nearest to the entropy comes first, for [num] logits, up to the next multiple of 16;
    certain: the logit of a token without any surprise."""
    source, out = address(logits), address(keys)
    for i in range(0, 4 * num, 4 * LANES):
        surprise = minimum(splat(certain) - load(source + i), splat(_MOST_SURPRISING))
        store(out + i, splat(_ZERO) - absolute(surprise - splat(entropy)))


@kernel
def _ordered(value):
    """The bits of a number as an integer from 0 that is the less, the larger the number is; both zeros have the
    same."""
    bits = np.int64(np.float32(value + _ZERO).view(np.int32))
    return ~(bits ^ ((bits >> 31) & _MAGNITUDE)) + _HALF


@kernel
def _digit(value, shift):
    return (_ordered(value) >> shift) & (NUM_BUCKETS - 1)


@kernel
def _bucket(keys_at, top):
    """Of 16 keys: the larger, the lower; all that are far below the top have the last."""
    below = (splat(top) - load(keys_at)) * splat(_BUCKETS_PER_UNIT)
    return round_even(minimum(below, splat(_LAST_BUCKET)))


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


@kernel
def _narrow(values, shift, weights, members, num, before, target, sums):
    """Leaves those of [num] members with whose digit the sum reaches `target`: how many, and the sum before them."""
    sums[:] = 0.0
    for m in range(num):
        sums[_digit(values[members[m]], shift)] += weights[members[m]]
    bucket, before = _first_reaching(sums, before, target)
    num_found = 0
    for m in range(num):
        if _digit(values[members[m]], shift) == bucket:
            members[num_found] = members[m]
            num_found += 1
    return num_found, before


@kernel
def _spread(keys, weights, parts, num, top, least, buckets, sums):
    """Puts the candidates' buckets into `buckets`, and adds up their weights in `sums`."""
    sums[:] = 0.0
    key_at, weight_at, bucket_at = address(keys), address(weights), address(buckets)
    for first in range(0, num, GROUP):
        if parts[first // GROUP] >= least:
            last = min(first + GROUP, num)
            for i in range(first, last, LANES):
                store(bucket_at + 4 * i, bits_to_float(_bucket(key_at + 4 * i, top)))
            for i in range(first, last):
                sums[np.uint64(load_scalar_i32(bucket_at + 4 * i))] += load_scalar(weight_at + 4 * i)


@kernel
def _gather(keys, parts, num, top, least, bucket, members):
    """Puts the candidates of a bucket into `members`: how many."""
    key_at, members_at, num_found, wanted = address(keys), address(members), 0, splat(np.float32(bucket))
    for first in range(0, num, GROUP):
        if parts[first // GROUP] >= least:
            for i in range(first, min(first + GROUP, num), LANES):
                away = absolute(to_float(_bucket(key_at + 4 * i, top)) - wanted)
                found = where_below(away, splat(_ONE), splat(_ONE), splat(_ZERO))
                found = select_below(np.int32(num - i), found, splat(_ZERO))
                num_found = append_places(members_at, num_found, i, marks(found))
    return num_found


@entry(
    int64(float32[::1], float32, float32[::1], float32[::1], float64[::1], int64, float64, float64, int32[::1],
          float64[::1])
)  # fmt: skip
def reach(keys, top, logits, weights, parts, num, target, least, members, sums):
    """Where the running sum of [num] weights, in order, reaches `target` at a candidate that has a weight, or the last
    of those. top: the largest key; parts: sums of each group's weights; groups of less than `least` are left out.
    Arrays are padded to whole groups; members, one of them, and sums, (NUM_BUCKETS,), are scratch."""
    _spread(keys, weights, parts, num, top, least, members, sums)
    bucket, before = _first_reaching(sums, 0.0, target)
    num = _gather(keys, parts, num, top, least, bucket, members)
    for shift in _SHIFTS:
        num, before = _narrow(keys, shift, weights, members, num, before, target, sums)
    if num > 1 and address(keys) != address(logits):
        for shift in _SHIFTS:
            num, before = _narrow(logits, shift, weights, members, num, before, target, sums)
    found = members[0]
    for m in range(num):
        if weights[members[m]] > _ZERO:
            found = members[m]
            before += weights[found]
            if before >= target:
                break
    return found


KERNELS = (rank_typical, reach)
