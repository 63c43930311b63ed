"""Kernels over a whole vocabulary: where the large logits are, the largest without a sort, exponentials and their sum.

candidates.py and sampler.py call them. Rows are f32, padded to whole groups of 64 with minus infinity. Invariant: each
has one order of evaluation, so a row of logits gives the same bits whatever else is being computed.
"""

import numpy as np
from numba import float32, float64, int32, int64, void

from worker.kernels.jit import entry
from worker.kernels.memory import load, store, store_scalar
from worker.kernels.ops import exp
from worker.kernels.simd import LANES, max_lanes, select_below, splat, sum_lanes, where_below

GROUP = 64  # logits summarised by one peak
MOST_INSERTED = 256  # `select_largest` moves up to this many numbers for each that it takes
_VECTOR = 4 * LANES  # bytes
_GROUP_BYTES = 4 * GROUP
_INFINITY = np.float32(np.inf)
_ONE, _ZERO = np.float32(1), np.float32(0)


@entry(int64(int64, int64, int64, int64))
def survey(logits, values, peaks, num_groups):
    """Copies [num_groups * 64] logits to `values` and puts each group's largest into `peaks`; all are addresses.
    Returns 0 if any is NaN or plus infinity, else 1."""
    bad = splat(_ZERO)
    for group in range(num_groups):
        first = load(logits + group * _GROUP_BYTES)
        store(values + group * _GROUP_BYTES, first)
        bad = where_below(first, splat(_INFINITY), bad, splat(_ONE))
        peak = first
        for at in range(group * _GROUP_BYTES + _VECTOR, (group + 1) * _GROUP_BYTES, _VECTOR):
            value = load(logits + at)
            store(values + at, value)
            bad = where_below(value, splat(_INFINITY), bad, splat(_ONE))
            peak = where_below(peak, value, value, peak)
        store_scalar(peaks + 4 * group, max_lanes(peak))
    return 1 if sum_lanes(bad) == _ZERO else 0


@entry(void(float32[::1], float32[::1], int64, float32[::1], int32[::1]))
def select_largest(values, peaks, num, picked, ids):
    """Puts the `num` largest values, descending, into `picked` and where they stood into `ids`; lower places win ties.
    Keeps them sorted on the way, and passes over groups whose peak is no larger than the least of them."""
    filled = 0
    for group in range(peaks.size):
        if filled == num and not peaks[group] > picked[num - 1]:
            continue
        for i in range(group * GROUP, group * GROUP + GROUP):
            value = values[i]
            if filled == num:
                if not value > picked[num - 1]:
                    continue
                filled -= 1
            place = filled
            while place > 0 and picked[place - 1] < value:
                picked[place] = picked[place - 1]
                ids[place] = ids[place - 1]
                place -= 1
            picked[place] = value
            ids[place] = i
            filled += 1


@entry(int64(float32[::1], float32[::1], float32, float32[::1], int32[::1]))
def collect(values, peaks, lowest, picked, ids):
    """Puts all values from `lowest` up into `picked`, in their order, and where they stood into `ids`. How many."""
    num = 0
    for group in range(peaks.size):
        if peaks[group] >= lowest:
            for i in range(group * GROUP, group * GROUP + GROUP):
                if values[i] >= lowest:
                    picked[num] = values[i]
                    ids[num] = i
                    num += 1
    return num


@entry(float64(int64, int64, int64, float32))
def exponentials(values, out, num, peak):
    """out[i] = exp(values[i] - peak) of [num] values, up to the next multiple of 16; both are addresses. Their sum."""
    total = 0.0
    for i in range(0, num, LANES):
        shifted = exp(load(values + 4 * i) - splat(peak))
        counted = select_below(np.int32(num - i), shifted, splat(_ZERO))
        store(out + 4 * i, counted)
        total += sum_lanes(counted)
    return total


@entry(float64(float32[::1], float32[::1], int64, float32))
def weighted_distance(weights, logits, num, peak):
    """The sum of weight * (peak - logit) over [num] of them; what has no weight may be minus infinity."""
    total = 0.0
    for first in range(0, num, GROUP):
        part = _ZERO
        for i in range(first, min(first + GROUP, num)):
            if weights[i] > _ZERO:
                part += weights[i] * (peak - logits[i])
        total += part
    return total


@entry(float64(float32[::1], int64))
def deviation(values, num):
    """The standard deviation of [num] values, without those that are minus infinity; 0 if there are none."""
    count, total = 0, 0.0
    for first in range(0, num, GROUP):
        part = 0.0
        for i in range(first, min(first + GROUP, num)):
            if values[i] > -_INFINITY:
                part += values[i]
                count += 1
        total += part
    mean, total = total / max(count, 1), 0.0
    for first in range(0, num, GROUP):
        part = 0.0
        for i in range(first, min(first + GROUP, num)):
            if values[i] > -_INFINITY:
                part += (values[i] - mean) ** 2
        total += part
    return (total / max(count, 1)) ** 0.5


@entry(int64(float32[::1], int64, float64))
def draw(weights, num, share):
    """The first of [num] at which the running sum of weights reaches that share of the whole, and that has a weight;
    share: in [0, 1). The sums of groups of 64 are added up first."""
    num_groups = -(-num // GROUP)
    sums = np.empty(num_groups, np.float64)
    total = 0.0
    for group in range(num_groups):
        part = 0.0
        for i in range(group * GROUP, min(group * GROUP + GROUP, num)):
            part += weights[i]
        sums[group] = part
        total += part
    target, before, found = total * share, 0.0, 0
    for group in range(num_groups):
        if sums[group] > 0.0 and before + sums[group] >= target:
            for i in range(group * GROUP, min(group * GROUP + GROUP, num)):
                if weights[i] > _ZERO:
                    found = i
                    before += weights[i]
                    if before >= target:
                        break
            break
        before += sums[group]
    return found


@entry(void(float32[::1], float32[::1], int32[::1], int32[::1], float32, float32, float32))
def penalise(values, peaks, window, counts, repeat, frequency, presence):
    """Lowers the values of the tokens in the window, once each, and their groups' peaks. `counts` is all 0 before and
    after. A penalty of repetition divides what is above 0 and multiplies what is below."""
    for i in range(window.size):
        counts[window[i]] += 1
    for i in range(window.size):
        token = window[i]
        if counts[token] > 0:
            value = values[token] * repeat if values[token] <= _ZERO else values[token] / repeat
            values[token] = value - (np.float32(counts[token]) * frequency + presence)
            counts[token] = 0
    for i in range(window.size):
        first = window[i] // GROUP * GROUP
        peak = values[first]
        for at in range(first + 1, first + GROUP):
            peak = values[at] if values[at] > peak else peak
        peaks[window[i] // GROUP] = peak


@entry(void(int32[::1], int64, int32[::1]))
def repeat_lengths(tokens, limit, lengths):
    """lengths[i] = how many tokens up to and with i are also the last ones of `tokens`, at most `limit`; the whole has
    0. The Z algorithm (Gusfield, Algorithms on Strings, 1.3) from the end, linear."""
    last = tokens.size - 1
    left, right = 0, -1  # the match that reaches farthest: places counted from the end
    lengths[last] = 0
    for place in range(1, tokens.size):
        length = 0
        if place <= right:
            length = min(right - place + 1, lengths[last - (place - left)])
        most = min(limit, tokens.size - place)
        while length < most and tokens[last - place - length] == tokens[last - length]:
            length += 1
        lengths[last - place] = length
        if place + length - 1 > right:
            left, right = place, place + length - 1


KERNELS = (survey, select_largest, collect, exponentials, weighted_distance, deviation, draw, penalise,
           repeat_lengths)  # fmt: skip
