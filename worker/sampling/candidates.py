"""The tokens that may come next: first the whole vocabulary, then what samplers leave of it, in llama-server's order.

Samplers change it, the sampler draws from it. Invariant: while `is_whole`, candidate i is token i and its logit lies in
`values`; afterwards it is ids[i], with picked[i]. Tokens of probability 0 may have been dropped: they are `num_dead`.

    values  (padded vocabulary,)     picked, ids, probabilities, keys  [ candidates .... num )

Their order is the one they stand in or, while `is_ranked`, that of their keys (ranking.py): many are not sorted where
only a few of them will be wanted in the end.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from worker.sampling.ranking import NUM_BUCKETS, divide_at, rank_descending, rank_typical, reach
from worker.sampling.vocabulary import (
    GROUP,
    MOST_INSERTED,
    collect,
    deviation,
    draw,
    exponentials,
    select_largest,
    survey,
    weighted_distance,
)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

_LOWEST = float(np.finfo(np.float32).min)
_MOST_SORTED = 1024  # candidates; more of them are ranked


class Candidates:
    """Owns scratch memory of the vocabulary's size; one thread at a time."""

    def __init__(self, vocab_size: int) -> None:
        num_groups = -(-vocab_size // GROUP)
        size = num_groups * GROUP
        self.vocab_size = vocab_size
        self.values = np.zeros(size, np.float32)
        self.peaks = np.zeros(num_groups, np.float32)
        self.picked = np.zeros(size, np.float32)
        self.ids = np.zeros(size, np.int32)
        self.counts = np.zeros(size, np.int32)
        self._probabilities = np.zeros(size, np.float32)
        self._keys = np.zeros(size, np.int64)
        self._scratch = np.zeros(size, np.int32)
        self._sums = np.zeros(NUM_BUCKETS, np.float64)
        self._ones = np.ones(size, np.float32)
        self._padded = np.full(size, -np.inf, np.float32)
        self._addresses = [array.ctypes.data for array in (self.values, self.peaks, self.picked, self._probabilities)]
        self.num = 0
        self.num_dead = 0
        self.is_whole = True
        self.is_sorted = False  # their order is descending
        self.is_ranked = False

    def start(self, logits: Floats) -> bool:
        """Begins with all of a row of logits, of which it makes a copy; False if one of them is not a number."""
        if logits.size != self._padded.size:
            self._padded[: logits.size] = logits
            logits = self._padded
        values, peaks, _, _ = self._addresses
        is_good: int = survey(logits.ctypes.data, values, peaks, self.peaks.size)
        self.num, self.num_dead = self.vocab_size, 0
        self.is_whole, self.is_sorted, self.is_ranked = True, False, False
        return bool(is_good)

    @property
    def size(self) -> int:
        """With those of probability 0."""
        return self.num + self.num_dead

    @property
    def logits(self) -> Floats:
        """A view, (num,)."""
        return (self.values if self.is_whole else self.picked)[: self.num]

    @property
    def peak(self) -> float:
        if self.is_whole:
            return float(self.peaks.max())
        standing_first = self.is_sorted and not self.is_ranked
        return float(self.picked[0] if standing_first else self.picked[: self.num].max())

    def token(self, index: int) -> int:
        return index if self.is_whole else int(self.ids[index])

    def select(self, num: int) -> None:
        """Keeps the largest of the whole vocabulary, in descending order; lower ids first among equals."""
        if num <= MOST_INSERTED:
            select_largest(self.values, self.peaks, num, self.picked, self.ids)
            self._become_list(num)
            self.is_sorted = True
            return
        # At least `num` values are no less than the peak of that rank, so nothing below it is wanted.
        lowest = float(np.partition(self.peaks, -num)[-num]) if num <= self.peaks.size else -np.inf
        self.is_whole, self.is_sorted = True, False
        self.keep_from(lowest)
        self.sort()
        self.keep_first(num)

    def keep_from(self, lowest: float) -> None:
        """Keeps the logits from `lowest` up, as they stand, and none of those without a chance."""
        least = np.float32(max(lowest, _LOWEST))
        if self.is_whole:
            self._become_list(collect(self.values, self.peaks, least, self.picked, self.ids))
        else:
            was_sorted, was_ranked = self.is_sorted, self.is_ranked
            places = np.flatnonzero(self.logits >= least)
            self._keys[: places.size] = self._keys[places]
            self.reorder(places)
            self.is_sorted, self.is_ranked = was_sorted, was_ranked

    def keep_first(self, num: int) -> None:
        """Keeps so many of a list, in its order."""
        if num < self.num:
            if self.is_ranked:
                self._divide_at(self._reach(self._ones, num), keeps_last=False)
            else:
                self.num = num

    def drop_first(self, num: int) -> None:
        """Drops so many of a list, in its order, and fewer than all."""
        if self.is_ranked:
            self._divide_at(self._reach(self._ones, num), keeps_last=True)
        else:
            was_sorted = self.is_sorted
            self.reorder(np.arange(num, self.num))
            self.is_sorted = was_sorted

    def keep_mass(self, mass: float, min_keep: int) -> None:
        """Keeps the first of a ranked list that hold the mass, in sums of weights as `weigh` gives them, or all."""
        place = self._reach(self.weigh()[0], mass)
        least = self._reach(self._ones, min_keep) if min_keep > 0 else place
        behind = (self._keys[least], least) > (self._keys[place], place)
        self._divide_at(least if behind else place, keeps_last=False)

    def _reach(self, weights: Floats, target: float) -> int:
        place: int = reach(self._keys, weights, self.num, target, self._scratch, self._sums)
        return place

    def _divide_at(self, place: int, *, keeps_last: bool) -> None:
        self.num = divide_at(self._keys, self.num, place, keeps_last, self.picked, self.ids)
        if self.num <= _MOST_SORTED:
            self.settle()

    def settle(self) -> None:
        """Lets ranked candidates stand in their order."""
        if not self.is_ranked:
            return
        was_sorted = self.is_sorted
        self.reorder(np.argsort(self._keys[: self.num], kind="stable"))
        self.is_sorted = was_sorted

    def draw(self, weights: Floats, share: float) -> int:
        """The first at which the running sum of weights, as `weigh` gave them, reaches that share of the whole, in
        [0, 1), and has a weight."""
        if self.is_ranked:
            return self._reach(weights, share * float(weights.sum(dtype=np.float64)))
        index: int = draw(weights, self.num, share)
        return index

    def keep_best(self) -> None:
        """Leaves no chance to any but the most likely, the first of them."""
        size = self.size
        first = int(self.peaks.argmax()) * GROUP if self.is_whole else 0
        best = first + int(self.logits[first : first + GROUP if self.is_whole else None].argmax())
        self.ids[0], self.picked[0] = self.token(best), self.logits[best]
        self._become_list(1)
        self.is_sorted, self.num_dead = True, size - 1

    def _become_list(self, num: int) -> None:
        self.num, self.is_whole, self.is_ranked = num, False, False

    def divide(self, temperature: float) -> None:
        """Divides every logit."""
        for logits in (self.values, self.peaks) if self.is_whole else (self.logits,):
            np.divide(logits, np.float32(temperature), out=logits)

    def drop_impossible(self) -> None:
        """Becomes a list, without the tokens that have no chance left."""
        if self.is_whole:
            size = self.num
            self.keep_from(_LOWEST)
            self.num_dead = size - self.num

    def sort(self) -> None:
        """Makes it a list in descending order; those that stand first stay first among equals."""
        self.drop_impossible()
        if self.is_sorted:
            return
        self.settle()
        if self.num > _MOST_SORTED:
            rank_descending(self.picked.view(np.int32), self.num, self._keys)
            self.is_ranked = True
        else:
            self.reorder(descending(self.picked[: self.num]))
        self.is_sorted = True

    def keep_typical(self, mass: float, min_keep: int) -> None:
        """Of a list in descending order, keeps those whose surprise is nearest to the entropy, the nearest first, until
        they have more than that probability."""
        entropy, total = self.entropy()
        certain = self.peak + math.log(total)
        bits = self.picked.view(np.int32)
        rank_typical(self.picked, bits, self.num, certain, entropy, self._scratch, self._keys)
        self.is_ranked, self.is_sorted = True, False
        self.keep_mass(math.nextafter(mass * total, math.inf), min_keep)

    def entropy(self) -> tuple[float, float]:
        """Of a list, in nats, and the sum of its weights."""
        weights, total = self.weigh()
        return weighted_distance(weights, self.picked, self.num, self.peak) / total + math.log(total), total

    def reorder(self, places: npt.NDArray[np.int64]) -> None:
        """Keeps the candidates at these places of the list, in this order; whether that is sorted is for the caller."""
        num = places.size
        self.picked[:num] = self.picked[places]
        self.ids[:num] = self.ids[places]
        self.num, self.is_sorted, self.is_ranked = num, False, False

    @contextmanager
    def by_token(self) -> Iterator[Floats]:
        """Logits to write to that stand where their tokens' numbers are, (padded vocabulary,); of tokens that are no
        candidates any more, they mean nothing. Whoever changes some tells `renew_peaks` which."""
        listed = slice(0, 0) if self.is_whole else slice(self.num)
        self.values[self.ids[listed]] = self.picked[listed]
        yield self.values
        self.picked[listed] = self.values[self.ids[listed]]
        self.is_sorted = False

    def renew_peaks(self, tokens: Ints) -> None:
        """Looks at the groups of these tokens again."""
        groups = np.unique(tokens // GROUP)
        self.peaks[groups] = self.values.reshape(-1, GROUP)[groups].max(axis=1)

    def deviation(self) -> float:
        """The standard deviation of the logits, of those that have a chance."""
        spread: float = deviation(self.logits, self.num)
        return spread

    def weigh(self) -> tuple[Floats, float]:
        """Exponentials of logit - peak, (num,), valid until the next call, and their sum."""
        values, _, picked, probabilities = self._addresses
        total: float = exponentials(values if self.is_whole else picked, probabilities, self.num, self.peak)
        return self._probabilities[: self.num], total


def descending(values: Floats) -> npt.NDArray[np.int64]:
    """The order that sorts values downwards, equals as they stand: bits of a float, made to sort as it does, above its
    place, in one integer, for which there is a fast sort."""
    bits = (values + np.float32(0)).view(np.int32)  # no -0, which would sort below 0
    order = ~(bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF)))
    keys = (order.astype(np.int64) << 32) | np.arange(values.size)
    keys.sort()
    return keys & 0xFFFFFFFF
