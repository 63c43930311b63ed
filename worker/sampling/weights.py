"""What candidates weigh, and where in their order a share of the weight is reached.

Candidates owns one Weights. A weight is e to the power of logit - peak; sums of each group of 64 are kept with them.
Invariant: weights that were taken stay until `forget` says that the logits are no longer those.
"""

import math

import numpy as np
import numpy.typing as npt

from worker.sampling.ranking import NUM_BUCKETS, Places, descending, reach
from worker.sampling.vocabulary import GROUP, exponentials, first_reaching, weighted_distance

Floats = npt.NDArray[np.float32]


class Weights:
    """Owns scratch memory of the vocabulary's size; one thread at a time."""

    def __init__(self, size: int) -> None:
        """`size`: of the vocabulary, in whole groups."""
        self._each, self._spare = np.zeros(size, np.float32), np.zeros(size, np.float32)
        self._ones = np.ones(size, np.float32)
        self._sums = np.zeros(size // GROUP, np.float64)
        self._total: float | None = None  # while they are those of the logits
        self._members = np.zeros(size, np.int32)
        self._masses = np.zeros(NUM_BUCKETS, np.float64)

    def take(self, logits: Floats, num: int, peak: float) -> tuple[Floats, float]:
        """Of the first `num` of the logits, padded to whole groups: (num,), and their sum."""
        if self._total is None:
            self._total = float(exponentials(logits, self._each, self._sums, num, peak))
        return self._each[:num], self._total

    def forget(self) -> None:
        """The logits are others now."""
        self._total = None

    def set_aside(self) -> None:
        """Those taken outlast the next ones."""
        self._each, self._spare = self._spare, self._each

    def entropy(self, logits: Floats, num: int, peak: float) -> float:
        """In nats."""
        weights, total = self.take(logits, num, peak)
        return float(weighted_distance(weights, logits, num, peak)) / total + math.log(total)

    def most_likely(self, num: int, num_wanted: int) -> Places:
        """Where the largest of `num` are, in descending order, the first of equals first; none that are 0."""
        weights, places = self._each[:num], np.arange(num)
        if 0 < num_wanted <= num // GROUP:
            peaks = weights[: num // GROUP * GROUP].reshape(-1, GROUP).max(axis=1)
            places = np.flatnonzero(weights >= np.partition(peaks, -num_wanted)[-num_wanted])
        places = places[weights[places] > 0]
        return places[descending(weights[places])[:num_wanted]]

    def first_reaching(self, num: int, target: float) -> int:
        """The first of `num`, as they stand, at which the running sum of the weights taken reaches the target."""
        return int(first_reaching(self._each, self._sums, num, target))

    def reach(self, ranks: Floats, top: float, logits: Floats, num: int, target: float, least: float) -> int:
        """The same in the order of their ranks, the largest of which is `top`; groups that weigh less than `least` are
        known to come behind it."""
        scratch = self._members, self._masses
        return int(reach(ranks, top, logits, self._each, self._sums, num, target, least, *scratch))

    def at_rank(self, ranks: Floats, top: float, logits: Floats, num: int, rank: int) -> int:
        """Which of `num` has so many up to and with it, in the order of their ranks."""
        scratch = self._members, self._masses
        return int(reach(ranks, top, logits, self._ones, self._sums, num, rank, -1.0, *scratch))
