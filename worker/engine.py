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
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from worker.cache.kv_cache import BlockPool
from worker.cache.places import Places
from worker.cache.prefix_store import PrefixStore
from worker.cache.prefixes import Prefixes
from worker.context import Capacity, check_fits, is_overfull, num_draftable, sequence_for, shift
from worker.cores.lease import Cores, OwnCores
from worker.drafting.drafts import MOST_DRAFTING, NOTHING, Drafter
from worker.drafting.lookup import LookupDrafter
from worker.errors import Overloaded, RequestError, Unavailable, WorkerError
from worker.generation import Event, Failed, FinishReason, Generation, Logprobs, PromptScores, Request, Sink, Token
from worker.sampler import Logprob, Sampler, SamplerState
from worker.scheduler import Batch, Limits, Scheduler
from worker.sequence import NO_LIMIT, Sequence, Tokens
from worker.stats import Counters, Stats
from worker.step_inputs import IntArray, StepInputs

log = logging.getLogger("worker.engine")

FloatArray = npt.NDArray[np.float32]
_Result = TypeVar("_Result")


class Model(Protocol):
    """What the engine needs of a decoder: see worker/model/decoder.py."""

    vocab_size: int

    def forward(
        self, tokens: IntArray, starts: IntArray, contexts: IntArray, blocks: IntArray, logit_rows: IntArray
    ) -> FloatArray: ...

    def read_block(self, block: int) -> bytes: ...

    def write_block(self, block: int, content: bytes) -> None: ...


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
        store: PrefixStore | None = None,
        cores: Cores | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        """`post` is called in the engine thread, once per step; `on_death` when the thread cannot go on.

        Steps are computed within `cores`, where other workers share them. `drafter` guesses tokens; by lookup if none
        is given.
        """
        self.capacity = capacity
        self._model = model
        self._eog_ids = frozenset(eog_ids)
        self._post = post
        self._on_death = on_death
        self._cores = cores or OwnCores()
        self._drafter = drafter or LookupDrafter()
        self._most_drafting = MOST_DRAFTING if capacity.max_drafts else 0
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._pool = BlockPool(capacity.num_blocks, capacity.block_size)
        self._scheduler = Scheduler(
            self._pool,
            Limits(capacity.max_running, capacity.max_waiting, capacity.step_tokens, capacity.step_seconds),
        )
        self.prefixes = Prefixes(self._pool, model, store, self._inbox.put)
        self.places = Places(capacity.max_running, self._pool, self.prefixes)  # for functions given to `call`
        self._sampler = Sampler(model.vocab_size)
        max_blocks = -(-capacity.context_length // capacity.block_size)
        self._inputs = StepInputs(capacity.max_running, capacity.step_tokens, max_blocks, capacity.max_logits)
        self._events: list[tuple[Sink, Event]] = []
        self._generations: dict[Sequence, Generation] = {}
        self._num_begun = 0
        self._counters = Counters()
        self._accepting = True
        self._door = threading.Lock()  # what is put into the inbox comes before the end, or not at all
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
        with self._door:
            self._accepting = False
            self._inbox.put(None)
        self._thread.join()

    def submit(self, request: Request, sink: Sink) -> Generation:
        """Queues a request. Its events, Overloaded among them, go to `sink`.

        Raises InvalidRequest, ContextExceeded, Unavailable.
        """
        check_fits(request, self.capacity)
        sequence = sequence_for(request, self.capacity, time.perf_counter())
        sampler = SamplerState(request.sampling, self._eog_ids, request.memory)
        generation = Generation(request, sequence, sampler, sink)
        self._put(partial(self._accept, generation))
        return generation

    def cancel(self, generation: Generation) -> None:
        """Frees what the request holds before the next step; nothing happens if it has ended."""
        self._inbox.put(partial(self._drop, generation))

    def call(self, function: Callable[[], _Result]) -> "Future[_Result]":
        """Runs a function in the engine's thread, between two steps. Raises Unavailable."""
        future: Future[_Result] = Future()
        self._put(partial(_resolve, future, function))
        return future

    def _put(self, message: Callable[[], None]) -> None:
        """Raises Unavailable where nobody would read it any more."""
        with self._door:
            if not self._accepting:
                raise Unavailable("the worker is ending")
            self._inbox.put(message)

    def stats(self) -> Stats:
        """Any thread may ask."""
        scheduler, pool, counters = self._scheduler, self._pool, self._counters
        return Stats(
            counters.num_steps, scheduler.num_running, scheduler.num_waiting,
            pool.num_blocks, pool.num_free, pool.num_cached,
            counters.prompt_tokens, counters.cached_tokens, counters.predicted_tokens,
            counters.prompt_seconds, counters.predicted_seconds,
            counters.step_seconds, tuple(counters.step_counts), scheduler.expected_wait, self._busy,
            counters.num_advanced, counters.longest,
            counters.num_drafts, counters.drafted_tokens, counters.accepted_tokens,
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
            self.prefixes.close()
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
        self._generations[generation.sequence] = generation
        if not self.prefixes.fetch(generation.sequence, partial(self._enqueue, generation)):
            self._enqueue(generation)

    def _enqueue(self, generation: Generation) -> None:
        if generation.sequence not in self._generations:  # it was cancelled while its prefix was read from disk
            return
        try:
            self._scheduler.add(generation.sequence)
        except Overloaded as error:
            self._fail([generation.sequence], error)

    def _drop(self, generation: Generation) -> None:
        if generation.sequence in self._generations:
            self._scheduler.remove(generation.sequence)
            self._forget(generation.sequence)

    def _step(self) -> None:
        began = time.perf_counter()
        guesses = self._guesses()
        spent = time.perf_counter() - began
        batch = self._scheduler.schedule(guesses, spent)
        for sequence in batch.admitted:
            self._begin(self._generations[sequence], began)
        try:
            logits, seconds = self._forward(batch)
        except Exception:
            log.exception("a step of %d sequences failed", len(batch.sequences))
            self._fail(batch.sequences, ComputeFailed("the model failed to compute this request"))
            return
        now = time.perf_counter()
        caught_up = set(self._scheduler.commit(batch, seconds))
        longest = max((sequence.num_computed for sequence in batch.sequences), default=0)
        self._counters.count_step(spent + seconds, len(batch.sequences), longest)
        for sequence, rows in self._inputs.split(batch, logits):
            if sequence.most_per_step < NO_LIMIT:
                self._try(sequence, partial(self._score_prompt, sequence, rows))
            if sequence in caught_up and sequence in self._generations:
                drafts = batch.drafts.get(sequence, NOTHING)
                self._try(sequence, partial(self._extend, sequence, rows[-1 - drafts.size :], drafts, now))

    def _guesses(self) -> dict[Sequence, Tokens]:
        """Guesses at what follows those who lack one token, while few run."""
        running = self._scheduler.running
        if len(running) > self._most_drafting:
            return {}
        wanted = {s: num_draftable(s, self.capacity) for s in running if s.num_uncomputed == 1}
        try:
            return self._drafter.propose(wanted)
        except Exception:
            log.exception("guessing ahead failed; from now on, nothing is guessed")
            self._most_drafting = 0
            return {}

    def _forward(self, batch: Batch) -> tuple[FloatArray, float]:
        """Logits of the sequences that catch up, each one's drafts behind its last token, and the seconds that took."""
        inputs = self._inputs.fill(batch)
        with self._cores:
            began = time.perf_counter()  # the wait for the cores says nothing of the step's size
            logits = self._model.forward(*inputs)
            return logits, time.perf_counter() - began

    def _begin(self, generation: Generation, now: float) -> None:
        self.places.take(generation)
        if generation.began:  # it was preempted and goes on
            return
        sequence = generation.sequence
        generation.began = now
        generation.task = self._num_begun
        self._num_begun += 1
        self._counters.prompt_tokens += sequence.num_prompt_tokens - sequence.num_cached
        self._counters.cached_tokens += sequence.num_cached
        self._events.append((generation.sink, generation.started()))

    def _try(self, sequence: Sequence, work: Callable[[], None]) -> None:
        """Does what may fail for one sequence without harm to the others."""
        try:
            work()
        except RequestError as error:
            self._fail([sequence], error)
        except Exception:
            log.exception("sampling failed")
            self._fail([sequence], ComputeFailed("the model failed to compute this request"))

    def _extend(self, sequence: Sequence, logits: FloatArray, drafts: Tokens, now: float) -> None:
        """Gives a sequence its next tokens, unless it is full already; logits: of its last token and its drafts."""
        generation = self._generations[sequence]
        self._note_time(generation, now)
        reason = self._ended(generation) or self._follow(generation, logits, drafts)
        if reason is not None:
            self._finish(generation, reason)
        elif is_overfull(sequence, self.capacity):
            self._scheduler.shift(sequence, *shift(generation.request, self.capacity))

    def _follow(self, generation: Generation, logits: FloatArray, drafts: Tokens) -> FinishReason | None:
        """Chooses tokens for as long as they are the drafted ones, and one more; says whether it is the last."""
        sequence, num_accepted = generation.sequence, 0
        reason = self._choose(generation, logits[0])
        while reason is None and num_accepted < drafts.size and sequence.last_token == drafts[num_accepted]:
            self._scheduler.accept(sequence)
            num_accepted += 1
            reason = self._choose(generation, logits[num_accepted])
        if drafts.size:
            generation.num_drafted += drafts.size
            generation.num_accepted += num_accepted
            self._drafter.observe(sequence, drafts.size, num_accepted)
            self._counters.count_drafts(drafts.size, num_accepted)
        return reason

    def _score_prompt(self, sequence: Sequence, logits: FloatArray) -> None:
        """Emits how likely each prompt token was after those before it; logits: of the tokens just computed."""
        generation = self._generations[sequence]
        assert generation.request.logprobs is not None
        tokens, first = sequence.tokens, sequence.num_computed - len(logits)
        begin = max(generation.num_scored, first + 1)
        end = min(sequence.num_prompt_tokens, sequence.num_computed + 1)
        scores = [Logprob(int(tokens[0]), 0.0, ())] if generation.num_scored == 0 else []
        for place in range(begin, end):
            row = logits[place - 1 - first]
            scores.append(self._sampler.logprob(row, int(tokens[place]), generation.request.logprobs.num_top))
        generation.num_scored = max(generation.num_scored, end)
        if scores:
            self._events.append((generation.sink, PromptScores(scores)))

    def _ended(self, generation: Generation) -> FinishReason | None:
        """Why it gets no token: it is full, or what it resumes had come to its end."""
        resumed = generation.request.resumed
        if resumed and not generation.num_predicted:
            if generation.detokenizer.stop_string is not None:
                return FinishReason.STOP_STRING
            if resumed[-1] in self._eog_ids:
                return FinishReason.END_OF_SEQUENCE
        return FinishReason.LENGTH if generation.sequence.is_full else None

    def _choose(self, generation: Generation, logits: FloatArray) -> FinishReason | None:
        """Samples, detokenizes and emits one token; says whether it is the last."""
        sequence, detokenizer = generation.sequence, generation.detokenizer
        token = self._sampler.sample(logits, sequence.tokens[: sequence.num_tokens], generation.sampler)
        logprob = self._logprob(generation.request.logprobs, logits, token)
        sequence.append(token)
        self._counters.predicted_tokens += 1
        reason = None
        if token in self._eog_ids:
            text, reason = detokenizer.finish(), FinishReason.END_OF_SEQUENCE
        else:
            text = detokenizer.push(token)
            if detokenizer.stop_string is not None:
                reason = FinishReason.STOP_STRING
            elif sequence.is_full:
                text, reason = text + detokenizer.finish(), FinishReason.LENGTH
        generation.has_new_line = generation.has_new_line or "\n" in text
        self._events.append((generation.sink, Token(text, token, generation.sampler.memory, logprob)))
        return reason

    def _logprob(self, wanted: Logprobs | None, logits: FloatArray, token: int) -> Logprob | None:
        """Of the token just sampled."""
        if wanted is None:
            return None
        if wanted.after_sampling:
            return self._sampler.logprob_after_sampling(wanted.num_top)
        return self._sampler.logprob(logits, token, wanted.num_top)

    def _note_time(self, generation: Generation, now: float) -> None:
        if generation.first_token:
            self._counters.predicted_seconds += now - generation.last_token
        else:
            generation.first_token = now
            self._counters.prompt_seconds += now - generation.began
        generation.last_token = now

    def _finish(self, generation: Generation, reason: FinishReason) -> None:
        self._events.append((generation.sink, generation.finished(reason)))
        self.prefixes.remember(generation.sequence)
        self._scheduler.remove(generation.sequence, stayed=generation.last_token - generation.began)
        self._forget(generation.sequence)

    def _fail(self, sequences: Items[Sequence], error: WorkerError) -> None:
        """Ends sequences. Unless it was the request's own fault, what was computed for them is not to be trusted."""
        forget = not isinstance(error, RequestError)
        for sequence in sequences:
            self._events.append((self._generations[sequence].sink, Failed(error)))
            self._scheduler.remove(sequence, forget=forget)
            self._forget(sequence)

    def _forget(self, sequence: Sequence) -> None:
        del self._generations[sequence]
        self._drafter.forget(sequence)

    def _emit(self) -> None:
        if self._events:
            self._post(self._events)
            self._events = []


def _resolve(future: "Future[_Result]", function: Callable[[], _Result]) -> None:
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
