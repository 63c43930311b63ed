"""How a request's tokens fit the context: refused, bounded, or shifted. Pure; the engine calls it.

A context shift (opt-in) makes room in a full context as llama-server does: the first `num_kept` tokens stay, half of
the others go. Keys carry the rotation of the position they were computed at, and values what they saw; so what stays
behind the gap is computed again, as if the shortened text had been the prompt. Invariant: the tokens that are left
follow from the prompt, the tokens generated and the request, so that another worker that resumes it shifts in the same
places.
"""

from dataclasses import dataclass

from worker.drafting.drafts import MOST_DRAFTING
from worker.errors import ContextExceeded, InvalidRequest
from worker.generation import Request
from worker.sequence import NO_LIMIT, NO_PLACE, SCORED_PER_STEP, Sequence, Standing

_MOST_KEPT = 4  # a shift keeps at most all but this many positions, as llama-server's does


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much the engine may hold and compute."""

    context_length: int  # positions of one sequence, at most
    num_blocks: int  # of the cache, shared by all sequences
    block_size: int
    max_running: int
    max_waiting: int
    step_tokens: int
    max_drafts: int = 0  # guesses computed behind a sequence's last token, at most
    step_seconds: float = 0.05  # what a step that reads prompts should take, at most
    shifts_context: bool = False

    def __post_init__(self) -> None:
        if self.step_tokens < self.max_running:
            raise ValueError(f"a step of {self.step_tokens} tokens cannot serve {self.max_running} sequences")
        if self.num_blocks * self.block_size < self.context_length:
            raise ValueError(f"{self.num_blocks} blocks cannot hold a context of {self.context_length} positions")

    @property
    def max_logits(self) -> int:
        """Tokens of one step whose logits are wanted."""
        return self.max_running * SCORED_PER_STEP + MOST_DRAFTING * self.max_drafts


def check_fits(request: Request, capacity: Capacity) -> None:
    """Raises InvalidRequest, ContextExceeded for what can never be computed."""
    limit, num_prompt = capacity.context_length, len(request.prompt)
    num_tokens = num_prompt + len(request.resumed)
    if num_prompt == 0:
        raise InvalidRequest("Field 'prompt': it has no tokens")
    if num_prompt >= limit:
        raise ContextExceeded(num_prompt, limit)
    if num_tokens > limit and not capacity.shifts_context:
        raise InvalidRequest(f"Field 'resume': prompt and resumed tokens ({num_tokens}) exceed the context ({limit})")


def sequence_for(request: Request, capacity: Capacity, arrived: float) -> Sequence:
    """The sequence of a request that fits, with the shifts that its resumed tokens have seen already."""
    limit = capacity.context_length
    # Without an end of its own, a shifted sequence ends when it has generated as much as the context holds.
    most = len(request.prompt) + (request.max_tokens if request.max_tokens >= 0 else limit)
    scored = request.logprobs is not None and request.logprobs.of_prompt
    sequence = Sequence(
        request.prompt,
        request.resumed,
        most if capacity.shifts_context else min(limit, most),
        guessing=request.guessing,
        shares_prefix=request.cache_prompt and not scored,
        standing=Standing(request.client, request.weight, request.priority, arrived),
        wanted_place=NO_PLACE if request.wanted_place == NO_PLACE else request.wanted_place % capacity.max_running,
    )
    if scored:
        sequence.most_per_step = SCORED_PER_STEP
    while sequence.num_tokens > limit or is_overfull(sequence, capacity):  # more than fit, even if no more are to come
        sequence.discard(*shift(request, capacity))
    return sequence


def is_overfull(sequence: Sequence, capacity: Capacity) -> bool:
    """Whether it needs a shift before it can go on."""
    return capacity.shifts_context and not sequence.is_full and sequence.num_tokens >= capacity.context_length


def num_draftable(sequence: Sequence, capacity: Capacity) -> int:
    """How many tokens behind the last may be computed on trial: one less than may still be appended."""
    if sequence.most_per_step < NO_LIMIT:  # its prompt is scored; steps of it stay as they are
        return 0
    end = min(sequence.max_tokens - sequence.num_discarded, capacity.context_length)
    wanted = sequence.guessing.most
    most = capacity.max_drafts if wanted is None else min(wanted, capacity.max_drafts)
    return min(most, end - sequence.num_tokens - 1)


def shift(request: Request, capacity: Capacity) -> tuple[int, int]:
    """How many tokens of a full context stay at its beginning, and how many behind them go."""
    limit = capacity.context_length
    wanted = len(request.prompt) if request.num_kept < 0 else request.num_kept
    num_kept = max(min(wanted, limit - _MOST_KEPT), 0)
    num_left = limit - num_kept
    return num_kept, max(1, min(request.num_discarded or num_left // 2, num_left - 1))
