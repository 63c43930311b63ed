"""Kernels over a whole vocabulary: the largest logits without a sort, and the softmax's sum. The sampler calls them.

Invariant: each has one order of evaluation, so a row of logits gives the same bits whatever else is being computed.
"""

import numpy as np

from worker.kernels.jit import kernel

GROUP = 64  # logits summarised by one peak
NUM_LANES = 16  # partial sums of exp_sum
_HEAP_LIMIT = 1024  # beyond it, sorting everything is faster
_DIGIT = 11  # bits of a radix pass

# A float's bits as a signed integer sort like the float once the negative ones are mirrored. Integers, because a
# maximum of floats is only vectorised where NaN may be ignored, and here a NaN must be seen.
_SIGN = np.int32(31)
_MIRROR = np.int32(0x7FFFFFFF)
_LOWEST, _HIGHEST = -0x80000000, 0x7FFFFFFF
_PLUS_INFINITY, _MINUS_INFINITY = 0x7F800000, -0x7F800001  # in that order; NaNs lie beyond them

# exp(x) = 2**k * exp(r), |r| <= ln(2)/2; ln(2) in two parts and the polynomial of Cephes' expf.
_LOG2_E = np.float32(1.44269504)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_ROUND = np.float32(12582912.0)  # 1.5 * 2**23: adding it drops the fraction
_P0, _P1, _P2, _P3, _P4, _P5 = (
    np.float32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)
_UNDERFLOW = np.float32(-87.0)
_EXPONENT_SHIFT = np.int32(23)


@kernel
def _order(bits):  # type: ignore[no-untyped-def]
    return np.int32(bits ^ ((bits >> _SIGN) & _MIRROR))


@kernel
def survey(values, peaks):  # type: ignore[no-untyped-def]
    """Puts the order of each group's largest value into `peaks`; False if any value is NaN or plus infinity."""
    bits = values.view(np.int32)
    lowest, highest = np.int32(_HIGHEST), np.int32(_LOWEST)
    for group in range(peaks.size):
        peak = np.int32(_LOWEST)
        for i in range(group * GROUP, min(group * GROUP + GROUP, bits.size)):
            order = _order(bits[i])
            peak = np.int32(max(peak, order))
            lowest = np.int32(min(lowest, order))
        peaks[group] = peak
        highest = np.int32(max(highest, peak))
    return lowest >= _MINUS_INFINITY and highest < _PLUS_INFINITY


@kernel
def largest(values, peaks):  # type: ignore[no-untyped-def]
    """The index of the largest value after `survey`; the lowest one wins a tie."""
    best = 0
    for group in range(1, peaks.size):
        if peaks[group] > peaks[best]:
            best = group
    index = best * GROUP
    for i in range(index + 1, min(index + GROUP, values.size)):
        if values[i] > values[index]:
            index = i
    return index


@kernel
def _is_worse(ids, picked, a, b):  # type: ignore[no-untyped-def]
    return picked[a] < picked[b] or (picked[a] == picked[b] and ids[a] > ids[b])


@kernel
def _swap(ids, picked, a, b):  # type: ignore[no-untyped-def]
    ids[a], ids[b] = ids[b], ids[a]
    picked[a], picked[b] = picked[b], picked[a]


@kernel
def _sift_down(ids, picked, root, size):  # type: ignore[no-untyped-def]
    while True:
        worst = root
        for child in (2 * root + 1, 2 * root + 2):
            if child < size and _is_worse(ids, picked, child, worst):
                worst = child
        if worst == root:
            return
        _swap(ids, picked, root, worst)
        root = worst


@kernel
def select_top(values, peaks, num, ids, picked, spare):  # type: ignore[no-untyped-def]
    """Puts the `num` largest values, descending, into picked[:num] and their indices into ids[:num]; lower indices
    win ties. `peaks` is from `survey`; all scratch is of the values' size."""
    if num > _HEAP_LIMIT:
        _sort(values, ids, picked, spare)
    else:
        _pick(values, peaks, num, ids, picked)


@kernel
def _pick(values, peaks, num, ids, picked):  # type: ignore[no-untyped-def]
    """A heap with the worst survivor at its root; groups whose peak does not beat it are passed over."""
    for i in range(num):
        ids[i] = i
        picked[i] = values[i]
    for root in range(num // 2 - 1, -1, -1):
        _sift_down(ids, picked, root, num)
    picked_bits = picked.view(np.int32)
    for group in range(num // GROUP, peaks.size):
        if peaks[group] <= _order(picked_bits[0]):
            continue
        for i in range(max(num, group * GROUP), min(group * GROUP + GROUP, values.size)):
            if values[i] > picked[0]:
                ids[0] = i
                picked[0] = values[i]
                _sift_down(ids, picked, 0, num)
    for size in range(num - 1, 0, -1):
        _swap(ids, picked, 0, size)
        _sift_down(ids, picked, 0, size)


@kernel
def _sort(values, ids, picked, spare):  # type: ignore[no-untyped-def]
    """Radix sort of everything, three stable passes from the lowest digit up: ids -> spare -> ids."""
    bits = values.view(np.int32)
    ends = np.empty(1 << _DIGIT, np.int32)
    for i in range(values.size):
        spare[i] = i
    for shift in range(0, 32, _DIGIT):
        source, target = (spare, ids) if shift != _DIGIT else (ids, spare)
        for digit in range(ends.size):
            ends[digit] = 0
        for i in range(values.size):
            ends[_digit(bits[i], shift)] += 1
        for digit in range(1, ends.size):
            ends[digit] += ends[digit - 1]
        for i in range(values.size - 1, -1, -1):
            digit = _digit(bits[source[i]], shift)
            ends[digit] -= 1
            target[ends[digit]] = source[i]
    for i in range(values.size):
        picked[i] = values[ids[i]]


@kernel
def _digit(bits, shift):  # type: ignore[no-untyped-def]
    # Counted down from the largest value, so that the sort is a descending one.
    return ((0x7FFFFFFF - np.int64(_order(bits))) >> shift) & ((1 << _DIGIT) - 1)


@kernel
def exp_sum(values, peak, exponentials, powers, lanes):  # type: ignore[no-untyped-def]
    """exponentials[i] = exp(values[i] - peak), 0 where that underflows; returns their sum in double precision."""
    num = values.size
    for i in range(num):
        x = values[i] - peak
        clamped = x if x > _UNDERFLOW else _UNDERFLOW
        k = (clamped * _LOG2_E + _ROUND) - _ROUND
        r = (clamped - k * _LN2_HIGH) - k * _LN2_LOW
        p = ((((_P0 * r + _P1) * r + _P2) * r + _P3) * r + _P4) * r + _P5
        exponentials[i] = p * r * r + r + _ONE if x > _UNDERFLOW else _ZERO
        powers[i] = np.int32(np.int32(k) << _EXPONENT_SHIFT) if x > _UNDERFLOW else np.int32(0)
    bits = exponentials.view(np.int32)
    for i in range(num):
        bits[i] = np.int32(bits[i] + powers[i])
    for lane in range(NUM_LANES):
        lanes[lane] = 0.0
    whole = num // NUM_LANES * NUM_LANES
    for i in range(0, whole, NUM_LANES):
        for lane in range(NUM_LANES):
            lanes[lane] += exponentials[i + lane]
    total = 0.0
    for lane in range(NUM_LANES):
        total += lanes[lane]
    for i in range(whole, num):
        total += exponentials[i]
    return total
