"""Kernels over a whole vocabulary: where the large logits are, the largest without a sort, exponentials and their sum.

candidates.py and sampler.py call them. Rows are f32, padded to whole groups of 64 with minus infinity. Invariant: each
has one order of evaluation, so a row of logits gives the same bits whatever else is being computed.
"""

import numpy as np
from numba import float32, float64, int32, int64, void

from worker.kernels.jit import entry, kernel
from worker.kernels.memory import load, store
from worker.kernels.ops import exp
from worker.kernels.simd import LANES, fma, max_lanes, minimum, select_below, splat, sum_lanes, where_below

GROUP = 64  # logits summarised by one peak
MOST_INSERTED = 128  # `select_largest` moves up to this many numbers for each that it takes
_VECTOR = 4 * LANES  # bytes
_INFINITY = np.float32(np.inf)
_ONE, _ZERO = np.float32(1), np.float32(0)


@kernel
def address(array):
    """For loads and stores without the price of an index that may be negative."""
    return np.int64(array.ctypes.data)


@entry(float32(float32[::1], float32[::1]))
def survey(values, peaks):
    """Puts the largest of each group into `peaks`. The least of all; NaN if one is NaN or plus infinity."""
    at, bad, least = address(values), splat(_ZERO), splat(_INFINITY)
    for group in range(peaks.size):
        peak = splat(-_INFINITY)
        for _ in range(GROUP // LANES):
            value = load(at)
            bad = where_below(value, splat(_INFINITY), bad, splat(_ONE))
            peak = where_below(peak, value, value, peak)
            least = minimum(value, least)
            at += _VECTOR
        peaks[group] = max_lanes(peak)
    return -max_lanes(splat(_ZERO) - least) if sum_lanes(bad) == _ZERO else np.float32(np.nan)


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


@entry(float64(float32[::1], float32[::1], float64[::1], int64, float32))
def exponentials(values, weights, sums, num, peak):
    """weights[i] = exp(values[i] - peak) of [num] values, and 0 up to the next multiple of 16; sums: of each group's
    weights. The sum of them all."""
    source, out, total = address(values), address(weights), 0.0
    for first in range(0, num, GROUP):
        part = splat(_ZERO)
        for i in range(first, min(first + GROUP, num), LANES):
            weight = exp(load(source + 4 * i) - splat(peak))
            weight = select_below(np.int32(num - i), weight, splat(_ZERO))
            store(out + 4 * i, weight)
            part = part + weight
        sums[first // GROUP] = sum_lanes(part)
        total += sums[first // GROUP]
    return total


@entry(float64(float32[::1], float32[::1], int64, float32))
def weighted_distance(weights, logits, num, peak):
    """The sum of weight * (peak - logit) over [num] of them, weights as `exponentials` makes them."""
    source, weighed, total = address(logits), address(weights), 0.0
    for first in range(0, num, GROUP):
        part = splat(_ZERO)
        for i in range(first, min(first + GROUP, num), LANES):
            weight = load(weighed + 4 * i)
            product = weight * (splat(peak) - load(source + 4 * i))
            part = part + where_below(splat(_ZERO), weight, product, splat(_ZERO))
        total += sum_lanes(part)
    return total


@entry(float64(float32[::1], int64, float32))
def deviation(values, num, peak):
    """The standard deviation of [num] values up to `peak`, without those that are minus infinity; 0 if there are
    none."""
    source, lowest = address(values), splat(-_INFINITY)
    count, total = 0.0, 0.0
    for first in range(0, num, GROUP):
        part, counted = splat(_ZERO), splat(_ZERO)
        for i in range(first, min(first + GROUP, num), LANES):
            value = select_below(np.int32(num - i), load(source + 4 * i), lowest)
            part = part + where_below(lowest, value, value - splat(peak), splat(_ZERO))
            counted = counted + where_below(lowest, value, splat(_ONE), splat(_ZERO))
        total += sum_lanes(part)
        count += sum_lanes(counted)
    mean, total = np.float32(peak + total / max(count, 1.0)), 0.0
    for first in range(0, num, GROUP):
        part = splat(_ZERO)
        for i in range(first, min(first + GROUP, num), LANES):
            value = select_below(np.int32(num - i), load(source + 4 * i), lowest)
            away = where_below(lowest, value, value - splat(mean), splat(_ZERO))
            part = fma(away, away, part)
        total += sum_lanes(part)
    return (total / max(count, 1.0)) ** 0.5


@entry(int64(float32[::1], float64[::1], int64, float64))
def first_reaching(weights, sums, num, target):
    """The first of [num] at which the running sum of weights reaches `target`, and that has a weight; or the last of
    those. sums: of each group's weights."""
    before, found, last_group = 0.0, 0, -(-num // GROUP)
    for group in range(last_group):
        if sums[group] > 0.0:
            found = group
            if before + sums[group] >= target:
                break
            before += sums[group]
    else:
        before -= sums[found]
    first, found = found * GROUP, 0
    for i in range(first, min(first + GROUP, num)):
        if weights[i] > _ZERO:
            found = i
            before += weights[i]
            if before >= target:
                break
    return found


@entry(void(float32[::1], float32[::1], float32[::1], float32, float32, float32[::1]))
def favour(weights, logits, curve, total, target, favoured):
    """New logits for weights of that total, the higher the nearer their share of it is to the target: curve[1] less
    curve[2] times the square of the distance nearby, times the distance itself far away, in units of 1 / curve[0].
    Minus infinity stays."""
    for i in range(weights.size):
        distance = abs(weights[i] / total - target) * curve[0]
        value = curve[1] - curve[2] * distance * distance / (_ONE + distance)
        favoured[i] = value if logits[i] > -_INFINITY else -_INFINITY


@kernel
def _replace(values, peaks, token, value):
    """Gives a token a new value, and its group its peak."""
    old, group = values[token], token // GROUP
    values[token] = value
    if value >= peaks[group]:
        peaks[group] = value
    elif old == peaks[group]:
        peak = value
        for i in range(group * GROUP, group * GROUP + GROUP):
            peak = values[i] if values[i] > peak else peak
        peaks[group] = peak


@entry(void(float32[::1], float32[::1], int32[::1], float32[::1]))
def add_at(values, peaks, tokens, amounts):
    """Adds to the values of tokens."""
    for i in range(tokens.size):
        _replace(values, peaks, tokens[i], values[tokens[i]] + amounts[i])


@entry(void(float32[::1], float32[::1], int32[::1], int32[::1], float32, float32, float32))
def penalise(values, peaks, window, counts, repeat, frequency, presence):
    """Lowers the values of the tokens in the window, once each. `counts` is all 0 before and after. A penalty of
    repetition divides what is above 0 and multiplies what is below."""
    for i in range(window.size):
        counts[window[i]] += 1
    for i in range(window.size):
        token = window[i]
        if counts[token] > 0:
            value = values[token] * repeat if values[token] <= _ZERO else values[token] / repeat
            _replace(values, peaks, token, value - (np.float32(counts[token]) * frequency + presence))
            counts[token] = 0


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


KERNELS = (survey, select_largest, exponentials, weighted_distance, deviation, first_reaching, favour, add_at,
           penalise, repeat_lengths)  # fmt: skip
