"""A request on its way through the engine: what was asked for, what comes of it, and what is kept in between.

generate_rpc.py makes Requests and reads Events; the engine turns one into the other. Events of one request come in this
order: one Started, PromptProgress and PromptScores if they are wanted, any number of Token, then one Finished; or
Failed at any point, and nothing after it.
"""

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from worker.sampler import Logprob, SamplerState
from worker.sampling.settings import NOTHING_YET, Memory, Sampling
from worker.sequence import AS_TOLD, NO_PLACE, USUAL_PRIORITY, Guessing, Sequence


class Detokenizer(Protocol):
    """What the engine needs of worker/text/detokenizer.py."""

    stop_string: str | None

    def push(self, token: int) -> str: ...

    def finish(self) -> str: ...


class Logprobs(NamedTuple):
    """Which log probabilities are wanted."""

    num_top: int  # alternatives per token
    after_sampling: bool = False  # among the candidates left, instead of the model's own
    of_prompt: bool = False  # of the prompt's tokens, too


@dataclass(frozen=True, slots=True)
class Request:
    """What to generate. Its numbers have been checked against the vocabulary."""

    prompt: Items[int]
    sampling: Sampling
    detokenizer: Detokenizer
    max_tokens: int = -1  # below 0: until the model ends or the context is full
    logprobs: Logprobs | None = None
    cache_prompt: bool = True
    resumed: Items[int] = ()  # completion tokens that another worker has emitted
    memory: Memory = NOTHING_YET  # what sampling them has left
    client: str = ""  # see sequence.Standing
    weight: float = 1.0
    priority: int = USUAL_PRIORITY
    wanted_place: int = NO_PLACE  # the only one where it may run; numbers start anew behind the last place
    num_kept: int = 0  # first tokens that a context shift leaves alone; below 0: the whole prompt
    num_discarded: int = 0  # tokens that a context shift takes out; 0: half of the others
    tells_progress: bool = False  # through its prompt
    max_seconds: float = 0.0  # from its first token to a line's end, which is its last; 0 or less: no limit
    guessing: Guessing = AS_TOLD


class FinishReason(Enum):
    END_OF_SEQUENCE = "end_of_sequence"
    STOP_STRING = "stop_string"
    LENGTH = "length"
    NO_PROMPT = "no_prompt"


class Started(NamedTuple):
    num_prompt_tokens: int
    num_cached_tokens: int
    seed: int
    place: int


class Token(NamedTuple):
    text: str
    token: int
    memory: Memory
    logprob: Logprob | None


class PromptScores(NamedTuple):
    """Log probabilities of prompt tokens, in order; the first token has none and comes with 0."""

    logprobs: list[Logprob]


class PromptProgress(NamedTuple):
    num_prompt_tokens: int
    num_cached_tokens: int
    num_done: int  # with those cached
    seconds: float  # since its first step began


class Finished(NamedTuple):
    reason: FinishReason
    stop_string: str
    num_prompt_tokens: int
    num_cached_tokens: int
    num_completion_tokens: int  # with those resumed
    num_predicted: int  # without
    truncated: bool  # the context was shifted
    queued_seconds: float  # from its arrival to its first step
    prompt_seconds: float  # from its first step to its first token
    predicted_seconds: float  # from its first token to its last
    num_drafted: int  # guesses computed
    num_accepted: int  # and right


class Failed(NamedTuple):
    error: Exception


def of_no_prompt(request: Request) -> tuple[Started, Finished]:
    """What comes of a request that has no token to go on from. No engine is needed for it."""
    started = Started(0, 0, request.sampling.seed, NO_PLACE)
    return started, Finished(FinishReason.NO_PROMPT, "", 0, 0, 0, 0, False, 0.0, 0.0, 0.0, 0, 0)


Event = Started | PromptProgress | PromptScores | Token | Finished | Failed
Sink = Callable[[Event], None]


class Generation:
    """One request in the engine: its sequence, the state of its sampling and text, and where its events go."""

    __slots__ = (
        "began",
        "detokenizer",
        "first_token",
        "has_new_line",
        "last_token",
        "num_accepted",
        "num_drafted",
        "num_scored",
        "request",
        "sampler",
        "sequence",
        "sink",
        "task",
    )

    def __init__(self, request: Request, sequence: Sequence, sampler: SamplerState, sink: Sink) -> None:
        self.request = request
        self.sequence = sequence
        self.sampler = sampler
        self.detokenizer = request.detokenizer
        self.num_drafted = self.num_accepted = 0  # guesses computed, and right
        self.num_scored = 0  # prompt tokens whose log probabilities were emitted
        self.sink = sink
        self.began = self.first_token = self.last_token = 0.0  # times; 0: not yet
        self.has_new_line = False  # in the text so far
        self.task = -1  # how many had begun before it

    @property
    def num_predicted(self) -> int:
        """Completion tokens computed here."""
        return self.sequence.num_completion_tokens - len(self.request.resumed)

    @property
    def is_late(self) -> bool:
        """Whether it is to end with the line in which it is."""
        return 0 < self.request.max_seconds < self.last_token - self.first_token

    def started(self) -> Started:
        sequence = self.sequence
        return Started(sequence.num_prompt_tokens, sequence.num_cached, self.request.sampling.seed, sequence.place)

    def progress(self, now: float) -> PromptProgress:
        sequence = self.sequence
        num_done = min(sequence.num_computed, sequence.num_prompt_tokens)
        return PromptProgress(sequence.num_prompt_tokens, sequence.num_cached, num_done, now - self.began)

    def finished(self, reason: FinishReason) -> Finished:
        sequence = self.sequence
        return Finished(
            reason,
            self.detokenizer.stop_string or "",
            sequence.num_prompt_tokens,
            sequence.num_cached,
            sequence.num_completion_tokens,
            self.num_predicted,
            sequence.num_discarded > 0,
            self.began - sequence.standing.arrived,
            self.first_token - self.began,
            self.last_token - self.first_token,
            self.num_drafted,
            self.num_accepted,
        )
