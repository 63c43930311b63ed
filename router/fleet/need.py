"""How much memory a model takes here, or would take: what its file foretells, and what its workers have told.

Owned by replicaset.ReplicaSet; the plan of what is loaded goes by it. Invariant: it is never less than what is
foretold, since a cache that is still empty is no measure.
"""

from collections.abc import Sequence

from router.config import ModelConfig
from router.fleet.footprint import Footprint, footprint


class MemoryNeed:
    """Of one model, in bytes."""

    def __init__(self, *, forked: bool) -> None:
        """`forked`: whether its workers come from a nursery."""
        self._forked = forked
        self._measured = 0  # of all workers together when they became ready, once all have told

    def estimate(self, model: ModelConfig) -> int:
        return max(self._measured, self._foretold(model).of(model.replicas))

    def foretell(self, model: ModelConfig) -> int:
        """Of other settings, with which nothing was measured yet."""
        return self._foretold(model).of(model.replicas)

    def measure(self, model: ModelConfig, told: Sequence[int | None]) -> None:
        """Takes what each worker has told; None: not yet. What they share counts once."""
        known = [num_bytes for num_bytes in told if num_bytes is not None]
        if known and len(known) == len(told):
            shared = self._foretold(model).shared
            self._measured = shared + sum(max(num_bytes - shared, 0) for num_bytes in known)

    def forget(self) -> None:
        """Other workers than those that have told will be loaded."""
        self._measured = 0

    def _foretold(self, model: ModelConfig) -> Footprint:
        return footprint(model, forked=self._forked)
