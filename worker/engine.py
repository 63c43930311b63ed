"""The one thread that runs kernels: take -> schedule -> forward -> sample -> commit -> emit.

service.py submits and cancels from the event loop; a queue brings that in, and what a step produced leaves through one
call of `post` with all sequences' events together. Invariant: sequences, blocks and the model are touched by the engine
thread alone, and every request submitted gets exactly one Finished or Failed unless it is cancelled.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from collections.abc import Sequence as Items
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from worker.errors import ContextExceeded, InvalidRequest, Overloaded, RequestError, Unavailable, WorkerError
from worker.generation import Event, Failed, FinishReason, Generation, Request, Sink, Started, Token
from worker.kv_cache import BlockPool
from worker.lease import Cores, OwnCores
from worker.sampler import Sampler, SamplerState
from worker.scheduler import Batch, Scheduler
from worker.sequence import Sequence

log = logging.getLogger("worker.engine")

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]


class Model(Protocol):
    """What the engine needs of a decoder: see worker/model/decoder.py."""

    vocab_size: int

    def forward(
        self, tokens: IntArray, starts: IntArray, contexts: IntArray, blocks: IntArray, logit_rows: IntArray
    ) -> FloatArray: ...


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much the engine may hold and compute."""

    context_length: int  # positions of one sequence, at most
    num_blocks: int  # of the cache, shared by all sequences
    block_size: int
    max_running: int
    max_waiting: int
    step_tokens: int

    def __post_init__(self) -> None:
        if self.step_tokens < self.max_running:
            raise ValueError(f"a step of {self.step_tokens} tokens cannot serve {self.max_running} sequences")
        if self.num_blocks * self.block_size < self.context_length:
            raise ValueError(f"{self.num_blocks} blocks cannot hold a context of {self.context_length} positions")


class Stats(NamedTuple):
    """What other threads may look at; each number is right, but they are not of the same instant."""

    num_steps: int
    num_running: int
    num_waiting: int
    num_blocks: int
    num_free_blocks: int
    num_cached_blocks: int
    prompt_tokens: int
    cached_tokens: int
    predicted_tokens: int
    prompt_seconds: float
    predicted_seconds: float
    busy: bool


class ComputeFailed(WorkerError):
    """A step ended with an exception, whose traceback is in the worker's log."""


class Engine:
    """Owns the engine thread and, in it, everything that a step changes."""

    def __init__(
        self,
        model: Model,
        capacity: Capacity,
        eog_ids: Collection[int],
        post: Callable[[list[tuple[Sink, Event]]], None],
        on_death: Callable[[BaseException], None],
        cores: Cores | None = None,
    ) -> None:
        """`post` is called in the engine thread, once per step; `on_death` when the thread cannot go on.

        Steps are computed within `cores`, where other workers share them.
        """
        self.capacity = capacity
        self._model = model
        self._eog_ids = frozenset(eog_ids)
        self._post = post
        self._on_death = on_death
        self._cores = cores or OwnCores()
        self._pool = BlockPool(capacity.num_blocks, capacity.block_size)
        self._scheduler = Scheduler(
            self._pool,
            max_running=capacity.max_running,
            max_waiting=capacity.max_waiting,
            step_tokens=capacity.step_tokens,
        )
        self._sampler = Sampler(model.vocab_size)
        self._inputs = _Inputs(capacity)
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._events: list[tuple[Sink, Event]] = []
        self._generations: dict[Sequence, Generation] = {}
        self._accepting = True
        self._num_steps = self._prompt_tokens = self._cached_tokens = self._predicted_tokens = 0
        self._prompt_seconds = self._predicted_seconds = 0.0
        self._busy = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def thread_id(self) -> int:
        """The system's, once it is started."""
        assert self._thread.native_id is not None
        return self._thread.native_id

    def stop(self) -> None:
        """Ends the thread after the step it is in; what is open fails with Unavailable."""
        self._accepting = False
        self._inbox.put(None)
        self._thread.join()

    def submit(self, request: Request, sink: Sink) -> Generation:
        """Queues a request. Its events, Overloaded among them, go to `sink`. Raises InvalidRequest, ContextExceeded."""
        limit = self.capacity.context_length
        num_prompt, num_tokens = len(request.prompt), len(request.prompt) + len(request.resumed)
        if not self._accepting:
            raise Unavailable("the worker is ending")
        if num_prompt == 0:
            raise InvalidRequest("Field 'prompt': it has no tokens")
        if num_prompt >= limit:
            raise ContextExceeded(num_prompt, limit)
        if num_tokens > limit:
            raise InvalidRequest(
                f"Field 'resume': prompt and resumed tokens ({num_tokens}) exceed the context ({limit})"
            )
        most = limit if request.max_tokens < 0 else min(limit, num_prompt + request.max_tokens)
        sequence = Sequence(request.prompt, request.resumed, most, shares_prefix=request.cache_prompt)
        sampler = SamplerState(request.sampling, self._eog_ids, request.num_draws)
        generation = Generation(request, sequence, sampler, sink)
        self._inbox.put(partial(self._accept, generation))
        return generation

    def cancel(self, generation: Generation) -> None:
        """Frees what the request holds before the next step; nothing happens if it has ended."""
        self._inbox.put(partial(self._drop, generation))

    def stats(self) -> Stats:
        scheduler, pool = self._scheduler, self._pool
        return Stats(
            self._num_steps, scheduler.num_running, scheduler.num_waiting,
            pool.num_blocks, pool.num_free, pool.num_cached,
            self._prompt_tokens, self._cached_tokens, self._predicted_tokens,
            self._prompt_seconds, self._predicted_seconds, self._busy,
        )  # fmt: skip

    def _run(self) -> None:
        try:
            while self._take_requests(wait=not self._scheduler.has_work):
                if self._scheduler.has_work:
                    self._busy = True
                    self._step()
                    self._busy = False
                self._emit()
            self._fail(list(self._generations), Unavailable("the worker is ending"))
            self._emit()
        except BaseException as error:
            log.critical("the engine cannot go on", exc_info=True)
            self._on_death(error)

    def _take_requests(self, *, wait: bool) -> bool:
        """Reads the inbox, once waiting for it; False: the engine shall end."""
        if wait:
            self._cores.release()
        while wait or not self._inbox.empty():
            message = self._inbox.get()
            wait = False
            if message is None:
                return False
            message()
        return True

    def _accept(self, generation: Generation) -> None:
        try:
            self._scheduler.add(generation.sequence)
        except Overloaded as error:
            self._events.append((generation.sink, Failed(error)))
        else:
            self._generations[generation.sequence] = generation

    def _drop(self, generation: Generation) -> None:
        if self._generations.pop(generation.sequence, None) is not None:
            self._scheduler.remove(generation.sequence)

    def _step(self) -> None:
        batch = self._scheduler.schedule()
        began = time.perf_counter()
        for sequence in batch.admitted:
            self._begin(self._generations[sequence], began)
        try:
            with self._cores:
                logits = self._model.forward(*self._inputs.fill(batch))
        except Exception:
            log.exception("a step of %d sequences failed", len(batch.sequences))
            self._fail(batch.sequences, ComputeFailed("the model failed to compute this request"))
            return
        now = time.perf_counter()
        self._num_steps += 1
        for row, sequence in enumerate(self._scheduler.commit(batch)):
            self._extend(sequence, logits[row], now)

    def _begin(self, generation: Generation, now: float) -> None:
        if generation.began:  # it was preempted and goes on
            return
        sequence = generation.sequence
        generation.began = now
        self._prompt_tokens += sequence.num_prompt_tokens - sequence.num_cached
        self._cached_tokens += sequence.num_cached
        started = Started(sequence.num_prompt_tokens, sequence.num_cached, generation.seed)
        self._events.append((generation.sink, started))

    def _extend(self, sequence: Sequence, logits: FloatArray, now: float) -> None:
        """Gives a sequence its next token, unless it is full already or its logits are no good."""
        generation = self._generations[sequence]
        try:
            self._note_time(generation, now)
            reason = FinishReason.LENGTH if sequence.is_full else self._choose(generation, logits)
            if reason is not None:
                self._finish(generation, reason)
        except RequestError as error:
            self._fail([sequence], error)
        except Exception:
            log.exception("sampling failed")
            self._fail([sequence], ComputeFailed("the model failed to compute this request"))

    def _choose(self, generation: Generation, logits: FloatArray) -> FinishReason | None:
        """Samples, detokenizes and emits one token; says whether it is the last."""
        sequence, detokenizer = generation.sequence, generation.detokenizer
        token = self._sampler.sample(logits, sequence.tokens[: sequence.num_tokens], generation.sampler)
        logprob = None
        if generation.num_logprobs is not None:
            logprob = self._sampler.logprob(logits, token, generation.num_logprobs)
        sequence.append(token)
        self._predicted_tokens += 1
        reason = None
        if token in self._eog_ids:
            text, reason = detokenizer.finish(), FinishReason.END_OF_SEQUENCE
        else:
            text = detokenizer.push(token)
            if detokenizer.stop_string is not None:
                reason = FinishReason.STOP_STRING
            elif sequence.is_full:
                text, reason = text + detokenizer.finish(), FinishReason.LENGTH
        self._events.append((generation.sink, Token(text, token, generation.sampler.num_draws, logprob)))
        return reason

    def _note_time(self, generation: Generation, now: float) -> None:
        if generation.first_token:
            self._predicted_seconds += now - generation.last_token
        else:
            generation.first_token = now
            self._prompt_seconds += now - generation.began
        generation.last_token = now

    def _finish(self, generation: Generation, reason: FinishReason) -> None:
        self._events.append((generation.sink, generation.finished(reason)))
        self._scheduler.remove(generation.sequence)
        del self._generations[generation.sequence]

    def _fail(self, sequences: Items[Sequence], error: WorkerError) -> None:
        """Ends sequences. Unless it was the request's own fault, what was computed for them is not to be trusted."""
        forget = not isinstance(error, RequestError)
        for sequence in sequences:
            self._events.append((self._generations.pop(sequence).sink, Failed(error)))
            self._scheduler.remove(sequence, forget=forget)

    def _emit(self) -> None:
        if self._events:
            self._post(self._events)
            self._events = []


class _Inputs:
    """Arrays that a step's arguments are laid out in, kept from step to step.

    tokens   [ sequence 0 ... | sequence 1 ... | ... )     starts = 0, count 0, count 0 + count 1, ...
    """

    def __init__(self, capacity: Capacity) -> None:
        num_sequences = capacity.max_running
        num_columns = -(-capacity.context_length // capacity.block_size)
        self._tokens = np.zeros(capacity.step_tokens, np.int32)
        self._starts = np.zeros(num_sequences + 1, np.int32)
        self._contexts = np.zeros(num_sequences, np.int32)
        self._blocks = np.zeros((num_sequences, num_columns), np.int32)
        self._logit_rows = np.zeros(num_sequences, np.int32)

    def fill(self, batch: Batch) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
        """Arguments of `forward`, valid until the next call. Logits are wanted where a sequence catches up."""
        num_rows = end = 0
        for i, (sequence, count) in enumerate(zip(batch.sequences, batch.counts, strict=True)):
            first, last = sequence.num_computed, sequence.num_computed + count
            self._tokens[end : end + count] = sequence.tokens[first:last]
            self._contexts[i] = first
            self._blocks[i, : sequence.num_blocks] = sequence.blocks[: sequence.num_blocks]
            end += count
            self._starts[i + 1] = end
            if last == sequence.num_tokens:
                self._logit_rows[num_rows] = end - 1
                num_rows += 1
        num = len(batch.sequences)
        return (
            self._tokens[:end], self._starts[: num + 1], self._contexts[:num],
            self._blocks[:num], self._logit_rows[:num_rows],
        )  # fmt: skip
