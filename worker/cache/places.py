"""The places that running sequences take, as llama-server's clients know its slots: what each does now, or did last.

The engine owns a Places in its thread; service.py shows its states. There is one cache for all of them: a place stands
for the beginning of the cache's tree that its latest sequence used, and for nothing else.
"""

from typing import NamedTuple

from worker.cache.kv_cache import BlockPool
from worker.cache.prefixes import Prefixes
from worker.cache.slot_files import SavedPrefix
from worker.chores import Work
from worker.errors import InvalidRequest
from worker.generation import Generation
from worker.sampling.settings import Sampling
from worker.sequence import Sequence


class PlaceState(NamedTuple):
    """What a place's latest generation has come to."""

    number: int
    task: int
    is_running: bool
    num_prompt_tokens: int
    num_prompt_computed: int
    num_cached_tokens: int
    num_predicted: int
    num_remaining: int  # tokens, at most
    has_new_line: bool
    sampling: Sampling
    max_tokens: int


class Places:
    """The latest generation and the latest sequence of every place."""

    def __init__(self, num_places: int, pool: BlockPool, prefixes: Prefixes) -> None:
        self._pool = pool
        self._prefixes = prefixes
        self._generations: list[Generation | None] = [None] * num_places
        self._sequences: list[Sequence | None] = [None] * num_places

    def take(self, generation: Generation) -> None:
        """Notes that a generation runs at its sequence's place."""
        number = generation.sequence.place
        self._generations[number], self._sequences[number] = generation, generation.sequence

    def states(self) -> list[PlaceState]:
        """Of the places that have had a generation."""
        return [_state(number, latest) for number, latest in enumerate(self._generations) if latest is not None]

    def copy(self, number: int) -> Work[SavedPrefix]:
        """The tokens that a place stands for, as far as whole blocks of them are in the tree, and those blocks."""
        sequence = self._checked(number)
        if sequence is None:
            return SavedPrefix((), ())
        names, tokens = self._names(sequence), sequence.tokens[: sequence.num_tokens].tolist()
        blocks = yield from self._prefixes.copy(names)
        return SavedPrefix(tokens[: len(blocks) * self._pool.block_size], blocks)

    def fill(self, number: int, saved: SavedPrefix) -> Work[None]:
        """Lets a place stand for a saved prefix, whose blocks enter the tree as far as there is room."""
        self._checked(number)
        sequence = Sequence(saved.tokens, (), len(saved.tokens), shares_prefix=True)
        names = self._names(sequence)
        yield from self._prefixes.fill(names, dict(zip(names, saved.blocks, strict=True)))
        self._sequences[number] = sequence

    def erase(self, number: int) -> int:
        """Frees what only this place stands for. Returns how many tokens that were, shared ones included."""
        sequence = self._checked(number)
        self._sequences[number] = None
        if sequence is None:
            return 0
        self._pool.erase(self._names(sequence))
        return sequence.num_tokens

    def _names(self, sequence: Sequence) -> list[bytes]:
        return self._pool.digests(sequence, sequence.num_tokens // self._pool.block_size)

    def _checked(self, number: int) -> Sequence | None:
        if not 0 <= number < len(self._sequences):
            raise InvalidRequest("Invalid slot ID")
        return self._sequences[number]


def _state(number: int, generation: Generation) -> PlaceState:
    sequence = generation.sequence
    num_computed = sequence.num_prompt_tokens if generation.first_token else sequence.num_computed
    return PlaceState(
        number,
        generation.task,
        sequence.place == number,
        sequence.num_prompt_tokens,
        max(num_computed - sequence.num_cached, 0),
        sequence.num_cached,
        generation.num_predicted,
        sequence.max_tokens - sequence.num_tokens - sequence.num_discarded,
        generation.has_new_line,
        generation.request.sampling,
        generation.request.max_tokens,
    )
