"""The tokens that may come next: first the whole vocabulary, then what samplers leave of it, in llama-server's order.

Samplers change it, the sampler draws from it. Candidate i is token ids[i] with logits[i], of which there are `num`.
Invariant: while `is_whole`, candidate i is token i, and `peaks` has the largest logit of each group. Tokens of
probability 0 may have been dropped: they are `num_dead`.

    whole   a row of logits, or a copy where they are changed     list   [ candidates .... num )

Their order is the one they stand in or, while there are `ranks`, that of these (ranking.py): many are not sorted, as
only a few of them will be wanted in the end. Nothing is moved that need not be.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from worker.sampling.ranking import Places, descending, rank_typical
from worker.sampling.thinning import collect, divide_at
from worker.sampling.vocabulary import GROUP, MOST_INSERTED, deviation, favour, select_largest, survey
from worker.sampling.weights import Floats, Weights

Ints = npt.NDArray[np.int32]

_LOWEST = float(np.finfo(np.float32).min)
_MOST_SORTED = 1024  # candidates; more of them are ranked


class Candidates:
    """Owns scratch memory of the vocabulary's size; one thread at a time."""

    def __init__(self, vocab_size: int) -> None:
        size = -(-vocab_size // GROUP) * GROUP
        self.vocab_size = vocab_size
        self.peaks = np.zeros(size // GROUP, np.float32)
        self.counts = np.zeros(size, np.int32)
        self._padded = np.full(size, -np.inf, np.float32)
        self._tokens = np.arange(size, dtype=np.int32)
        self._changed = np.zeros(size, np.float32)  # the whole vocabulary's logits, where they are not as given
        self._listed = np.zeros(size, np.float32), np.zeros(size, np.int32)
        self._keys = np.zeros(size, np.float32)
        self._places = np.zeros(size, np.int32)
        self._weights = Weights(size)
        self._logits, self._ids = self._padded, self._tokens
        self.num = 0
        self.num_dead = 0
        self.is_sorted = False  # their order is descending
        self._least = -math.inf  # while they are whole, no logit is below it
        self._ranks: Floats | None = None

    def start(self, logits: Floats) -> bool:
        """Begins with all of a row of logits, which stays as it is; False if one of them is not a number."""
        if logits.size != self._padded.size:
            self._padded[: logits.size] = logits
            logits = self._padded
        self._logits, self._ids = logits, self._tokens
        self.num, self.num_dead = self.vocab_size, 0
        self.is_sorted, self._ranks = False, None
        self._weights.forget()
        self._least = float(survey(logits, self.peaks))
        return not math.isnan(self._least)

    @property
    def is_whole(self) -> bool:
        return self._ids is self._tokens

    @property
    def size(self) -> int:
        """With those of probability 0."""
        return self.num + self.num_dead

    @property
    def logits(self) -> Floats:
        """To be read, (num,)."""
        return self._logits[: self.num]

    @property
    def ids(self) -> Ints:
        """To be read, (num,)."""
        return self._ids[: self.num]

    @property
    def peak(self) -> float:
        if self.is_whole:
            return float(self.peaks.max())
        stands_first = self.is_sorted and self._ranks is None
        return float(self._logits[0] if stands_first else self.logits.max())

    def token(self, index: int) -> int:
        return int(self._ids[index])

    def weigh(self) -> tuple[Floats, float]:
        """Exponentials of logit - peak, (num,), valid until something changes, and their sum."""
        return self._weights.take(self._logits, self.num, self.peak)

    def entropy(self) -> float:
        """In nats."""
        return self._weights.entropy(self._logits, self.num, self.peak)

    def deviation(self) -> float:
        """The standard deviation of the logits, of those that have a chance."""
        return float(deviation(self._logits, self.num, self.peak))

    def draw(self, share: float) -> int:
        """The first at which the running sum of weights reaches that share of the whole, in [0, 1), and that has a
        weight."""
        return self._reach(share * self.weigh()[1])

    def most_likely(self, num: int) -> Places:
        """Where the `num` largest weights are, in descending order, the first of equals first; none that are 0."""
        self.weigh()
        return self._weights.most_likely(self.num, num)

    def largest(self, num: int) -> Floats:
        """The largest logits of the whole vocabulary, descending, (num,); at most MOST_INSERTED."""
        select_largest(self._logits, self.peaks, num, *self._listed)
        return self._listed[0][:num]

    # Leaving some out

    def keep_largest(self, num: int) -> None:
        """Keeps so many, in descending order; those that came first stay first among equals."""
        if not (self.is_whole and self._goes_by_logits):
            self.sort()
            self.keep_first(num)
        elif num <= MOST_INSERTED:
            self.largest(num)
            self._become_list(num, None)
            self.is_sorted = True
        else:
            # At least `num` logits are no less than the peak of that rank, so nothing below it is wanted.
            self.keep_from(float(np.partition(self.peaks, -num)[-num]) if num <= self.peaks.size else _LOWEST)
            self.sort()
            self.keep_first(num)

    def keep_from(self, lowest: float) -> None:
        """Keeps the logits from `lowest` up, in their order, and none of those without a chance."""
        least = np.float32(max(lowest, _LOWEST))
        if self.is_whole and least <= self._least:
            return
        if self.is_whole and self._goes_by_logits:
            self._collect(least, self.num)
        elif self.is_sorted and self._ranks is None:
            self._become_list(int(np.count_nonzero(self.logits >= least)), None)
        else:
            self._keep_places(np.flatnonzero(self.logits >= least))

    def keep_first(self, num: int) -> None:
        """Of candidates that have been sorted, keeps so many."""
        if num < self.num:
            self._cut_behind(self._at_rank(num))

    def keep_mass(self, mass: float, min_keep: int) -> None:
        """Of candidates that have been sorted or ranked, keeps the first that hold the mass, in sums of weights as
        `weigh` gives them, or all; and not less than `min_keep`."""
        place = self._reach(mass)
        if min_keep > 1:
            place = self.last_of(np.sort([place, self._at_rank(min(min_keep, self.num))]))
        self._cut_behind(place)

    def keep_typical(self, typical_p: float, min_keep: int) -> None:
        """Of candidates that have been sorted, keeps those whose surprise is nearest to the entropy, the nearest first,
        until they have more than that probability."""
        entropy, (_, total) = self.entropy(), self.weigh()
        certain, mass = self.peak + math.log(total), math.nextafter(typical_p * total, math.inf)
        # All more surprising than this hold too little to be wanted, and all that are less so come before them.
        if min_keep <= 1:
            self.keep_from(certain - max(math.log(2 * self.num / (1 - typical_p)), 2 * entropy + 1))
        if not self._goes_by_logits:
            self.settle()
        rank_typical(self._logits, self.num, certain, entropy, self._keys)
        self._ranks, self.is_sorted = self._keys, False
        self.keep_mass(mass, min_keep)

    def drop_before(self, place: int) -> None:
        """Of candidates that have been sorted, drops those that come before the one at `place`."""
        if self._ranks is None:
            self._keep_places(np.arange(place, self.num))
        else:
            self._divide_at(place, keeps_last=True)

    def drop_impossible(self) -> None:
        """Leaves out the tokens that have no chance left."""
        if self.is_whole and self._least == -math.inf:
            size = self.num
            if np.count_nonzero(self.logits >= np.float32(_LOWEST)) < size:
                self.keep_from(_LOWEST)
                self.num_dead = size - self.num

    def keep_best(self) -> None:
        """Leaves no chance to any but the most likely, the first of them."""
        size = self.size
        first = int(self.peaks.argmax()) * GROUP if self.is_whole else 0
        best = first + int(self._logits[first : first + GROUP if self.is_whole else self.num].argmax())
        if self._ranks is not None:
            equals = np.flatnonzero(self.logits == self._logits[best])
            best = int(equals[self._ranks[equals].argmax()])
        logits, ids = self._listed
        logits[0], ids[0] = self._logits[best], self._ids[best]
        self._become_list(1, None)
        self.is_sorted, self.num_dead = True, size - 1

    # Their order

    def sort(self) -> None:
        """Puts them into descending order; those that came first stay first among equals."""
        self.drop_impossible()
        if self.is_sorted:
            return
        if not self._goes_by_logits:
            self.settle()
        if self.num > _MOST_SORTED:
            self._ranks = self._logits
        else:
            self._reorder(descending(self.logits))
        self.is_sorted = True

    def last_of(self, places: Places) -> int:
        """Of some candidates, given as they stand, which comes last in order."""
        if self._ranks is not None:
            for numbers in (self._ranks, self._logits):
                places = places[numbers[places] == numbers[places].min()]
        return int(places[-1])

    def settle(self) -> None:
        """Lets ranked candidates stand in their order."""
        if self._ranks is not None:
            was_sorted, ranks = self.is_sorted, self._ranks[: self.num]
            places = descending(self.logits)
            if not self._goes_by_logits:
                places = places[descending(ranks[places])]
            self._reorder(places)
            self.is_sorted = was_sorted

    @property
    def _goes_by_logits(self) -> bool:
        """Whether they stand in order, or would if their logits were sorted."""
        return self._ranks is None or self._ranks is self._logits

    def _reach(self, mass: float) -> int:
        """Where, in order, the running sum of weights reaches the mass."""
        _, total = self.weigh()
        if self._ranks is None:
            return self._weights.first_reaching(self.num, mass)
        # Groups that weigh so little have half of what is beyond the mass, or less, so all in them comes behind it.
        least = 0.5 * (total - mass) / self.num if self.is_sorted else -1.0
        return self._weights.reach(self._ranks, self._highest_rank, self._logits, self.num, mass, least)

    def _at_rank(self, rank: int) -> int:
        """Which of the candidates has so many up to and with it."""
        if self._ranks is None:
            return rank - 1
        return self._weights.at_rank(self._ranks, self._highest_rank, self._logits, self.num, rank)

    @property
    def _highest_rank(self) -> float:
        assert self._ranks is not None
        return self.peak if self._ranks is self._logits else float(self._ranks[: self.num].max())

    # Moving them

    def _cut_behind(self, place: int) -> None:
        if self._ranks is None:
            self._become_list(place + 1, None)
        elif self.is_whole and self._goes_by_logits:
            self._collect(self._logits[place], place)
        else:
            self._divide_at(place, keeps_last=False)

    def _collect(self, lowest: np.float32, last: int) -> None:
        """Of the whole vocabulary, keeps the logits above `lowest`, and those that equal it up to place `last`."""
        num = collect(self._logits, self.peaks, lowest, last, *self._listed)
        self._become_list(num, None if self._ranks is None else self._listed[0])

    def _divide_at(self, place: int, *, keeps_last: bool) -> None:
        assert self._ranks is not None
        logits, ids = self._listed
        keys = logits if self._goes_by_logits else self._keys
        candidates, kept = (self._ranks, self._logits, self._ids), (keys, logits, ids)
        num = divide_at(*candidates, self.num, place, keeps_last, *kept, self._places)
        self._become_list(num, keys)

    def _keep_places(self, places: Places) -> None:
        """Keeps the candidates at these places, as they stand."""
        logits, ids = self._listed
        keys = logits if self._ranks is self._logits else self._keys
        if self._ranks is not None and keys is self._keys:
            keys[: places.size] = self._ranks[places]
        logits[: places.size], ids[: places.size] = self._logits[places], self._ids[places]
        self._become_list(places.size, None if self._ranks is None else keys)

    def _reorder(self, places: Places) -> None:
        """Lets them stand in this order."""
        logits, ids = self._listed
        logits[: places.size], ids[: places.size] = self._logits[places], self._ids[places]
        self._become_list(places.size, None)

    def _become_list(self, num: int, ranks: Floats | None) -> None:
        """With what has been put into `_listed`."""
        (self._logits, self._ids), self.num, self._ranks = self._listed, num, ranks
        self._weights.forget()
        if num <= _MOST_SORTED:
            self.settle()

    # Changing logits

    def divide(self, temperature: float) -> None:
        """Divides every logit."""
        given, written = self._logits, self._begin_change()
        np.divide(given[: written.size], np.float32(temperature), out=written)
        if self.is_whole:
            np.divide(self.peaks, np.float32(temperature), out=self.peaks)

    @contextmanager
    def by_token(self) -> Iterator[Floats]:
        """Logits to write to that stand where their tokens' numbers are, (padded vocabulary,); of tokens that are no
        candidates any more, they mean nothing. Whoever writes keeps `peaks` right."""
        given, written = self._logits, self._begin_change()
        if not self.is_whole:
            self._changed[self.ids] = written
        elif given is not written:
            np.copyto(written, given)
        yield self._changed
        if not self.is_whole:
            written[:] = self._changed[self.ids]
        self.is_sorted = False

    def favour(self, target: float, curve: Floats) -> None:
        """Gives new logits, the higher the nearer the probability is to the target, by the curve that vocabulary.py
        tells of. What `weigh` gave before stays valid once more."""
        weights, total = self.weigh()
        given, written = self._logits, self._begin_change()
        favour(weights, given, curve, total, target, written)
        if self.is_whole:
            written[self.num :] = -np.inf
            survey(written, self.peaks)
        self._weights.set_aside()
        self.is_sorted = False

    def _begin_change(self) -> Floats:
        """Where new logits are written to, (padded vocabulary,) or (num,). The order stays as it is."""
        self._weights.forget()
        self._least = -math.inf
        if self.is_whole and self._logits is not self._changed:
            self._logits = self._changed
        elif self._ranks is self._logits:
            self._keys[: self.num] = self.logits
            self._ranks = self._keys
        return self._logits if self.is_whole else self.logits
