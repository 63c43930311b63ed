"""An answer that outlives its worker: what of it has been handed out, and the request by which another worker goes on.

One Journal for each generation, kept by dispatch.py. The worker that goes on takes the tokens as emitted, with the seed
and the draws made so far, so that its first new token is the one the lost worker would have sent next. Invariant: put
together, what `record` returns is one answer: one Started, every token once and none before progress of the prompt,
one Finished that counts all of them.
"""

from collections.abc import Callable, Iterable

from protos import inference_pb2 as pb
from router.errors import (
    InternalError,
    Overloaded,
    RequestPoisonous,
    RouterError,
    Unavailable,
    WorkerFailed,
    WorkerLost,
)

MAX_CRASHES = 2  # that a request may be present at
MAX_MOVES = 8

Clock = Callable[[], float]  # seconds, monotonic


class Journal:
    """One generation so far."""

    def __init__(self, request: pb.GenerateRequest, clock: Clock) -> None:
        self._request = request
        self._clock = clock
        self._scores_prompt = request.logprobs.of_prompt
        self._began = self._first_token = clock()
        self._started: pb.Started | None = None
        self._tokens: list[int] = []
        self._num_counted = 0  # tokens of the answer, as its end says
        self._last = pb.Delta()  # the latest of them came with it, and with the sampler's state after it
        self._num_prompt_logprobs = 0
        self._num_repeated = 0  # prompt logprobs that the present worker has yet to say again
        self._num_crashes = 0
        self.num_moves = 0  # from one worker to another

    @property
    def has_begun(self) -> bool:
        """Whether any of the answer was handed out."""
        return self._started is not None

    @property
    def num_tokens(self) -> int:
        """Of prompt and answer so far."""
        num_prompt = self._started.num_prompt_tokens if self._started is not None else 0
        return num_prompt + (self._num_counted or len(self._tokens))

    def recorded(self, replies: Iterable[pb.GenerateReply]) -> list[pb.GenerateReply]:
        """The replies as the client gets them, see `record`."""
        return [told for reply in replies if (told := self.record(reply)) is not None]

    def record(self, reply: pb.GenerateReply) -> pb.GenerateReply | None:
        """The reply as the client gets it; None: it was told so before. Raises WorkerFailed: this is another answer."""
        if reply.HasField("delta"):
            return self._record_delta(reply)
        if reply.HasField("progress"):
            return None if self._tokens else reply
        if reply.HasField("finished"):
            self._num_counted = reply.finished.num_completion_tokens
            if self.num_moves:
                self._sum_up(reply.finished)
        elif self._started is None:
            self._started = reply.started
        else:
            self._check_same_prompt(reply.started)
            return None
        return reply

    def _record_delta(self, reply: pb.GenerateReply) -> pb.GenerateReply | None:
        delta = reply.delta
        if self._scores_prompt:
            self._drop_repeated(delta)
        if tokens := delta.tokens:
            if not self._tokens:
                self._first_token = self._clock()
            self._tokens += tokens
            self._last = delta
        return reply if tokens or delta.ByteSize() else None

    def _drop_repeated(self, delta: pb.Delta) -> None:
        """Each worker computes those of the prompt from the beginning; the client gets them once."""
        num_again = min(self._num_repeated, len(delta.prompt_logprobs))
        del delta.prompt_logprobs[:num_again]
        self._num_repeated -= num_again
        self._num_prompt_logprobs += len(delta.prompt_logprobs)

    def request(self) -> pb.GenerateRequest:
        """What to ask the next worker for: all of it, or what is missing."""
        if self._started is None:
            return self._request
        request = pb.GenerateRequest()
        request.CopyFrom(self._request)
        request.sampling.seed, request.sampling.has_seed = self._started.seed, True
        request.resume.num_draws = self._last.num_draws
        if self._last.HasField("memory"):
            request.resume.memory.CopyFrom(self._last.memory)
        request.resume.tokens.extend(self._tokens)
        return request

    def move(self, error: RouterError) -> None:
        """Returns if another worker shall go on after this error of one; else raises what the client is told."""
        if isinstance(error, WorkerLost):
            self._num_crashes += error.had_request
            if self._num_crashes >= MAX_CRASHES:
                raise RequestPoisonous(self._num_crashes) from error
        elif not isinstance(error, Unavailable) and not (isinstance(error, Overloaded) and self._started):
            raise error
        if self.num_moves >= MAX_MOVES:
            raise error
        self.num_moves += 1
        self._num_repeated = self._num_prompt_logprobs

    def _check_same_prompt(self, started: pb.Started) -> None:
        assert self._started is not None
        ours, theirs = self._started.num_prompt_tokens, started.num_prompt_tokens
        if ours != theirs:
            raise WorkerFailed(f"no worker can go on: the prompt of {ours} tokens has {theirs} for the next one")

    def _sum_up(self, finished: pb.Finished) -> None:
        """The last worker's times are of its own part only; in their place come those seen from here."""
        assert self._started is not None
        num_cached = self._started.num_cached_tokens
        finished.timings.CopyFrom(
            pb.Timings(
                num_cached=num_cached,
                num_prompt=finished.num_prompt_tokens - num_cached,
                prompt_ms=1e3 * (self._first_token - self._began),
                num_predicted=finished.num_completion_tokens,
                predicted_ms=1e3 * (self._clock() - self._first_token),
            )
        )


def blames_replica(error: RouterError) -> bool:
    """Whether an error speaks against the worker it came from."""
    return isinstance(error, WorkerFailed | InternalError)
