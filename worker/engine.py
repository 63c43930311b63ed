"""The one thread that runs kernels: take -> schedule -> forward -> commit -> sample -> emit.

The service submits and cancels from the event loop; an inbox brings that in, and what a step produced leaves through
one call of `post` with all sequences' events together. Invariant: sequences, blocks and the model are touched by the
engine thread alone, and every request submitted gets exactly one Finished or Failed unless it is cancelled.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from collections.abc import Sequence as Items
from concurrent.futures import Future
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from worker.batch import Batch
from worker.cache.kv_cache import BlockPool
from worker.cache.kv_file import Content
from worker.cache.places import Places
from worker.cache.prefix_store import PrefixStore
from worker.cache.prefixes import Prefixes
from worker.chores import Chores, Work, promised
from worker.context import Capacity, check_fits, is_overfull, sequence_for, shift
from worker.cores.lease import Cores, OwnCores
from worker.drafting.drafts import NOTHING, Drafter
from worker.drafting.guesses import Guesses
from worker.drafting.lookup import LookupDrafter
from worker.errors import Overloaded, RequestError, Unavailable, WorkerError
from worker.generation import Failed, FinishReason, Generation, Request, Sink
from worker.mailbox import Inbox, Outbox, Post
from worker.sampler import Sampler, SamplerState
from worker.scheduler import Limits, Scheduler
from worker.sequence import NO_LIMIT, Sequence, Tokens
from worker.stats import Counters, Stats
from worker.step_inputs import IntArray, StepInputs
from worker.writer import Writer

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

    def write_block(self, block: int, content: Content) -> None: ...


class ComputeFailed(WorkerError):
    """A step ended with an exception, whose traceback is in the worker's log."""


class Engine:
    """Owns the engine thread and, in it, everything that a step changes."""

    def __init__(
        self,
        model: Model,
        capacity: Capacity,
        eog_ids: Collection[int],
        post: Post,
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
        self._on_death = on_death
        self._cores = cores or OwnCores()
        self._inbox = Inbox()
        self._outbox = Outbox(post)
        self._counters = Counters()
        self._pool = BlockPool(capacity.num_blocks, capacity.block_size)
        self._scheduler = Scheduler(
            self._pool,
            Limits(capacity.max_running, capacity.max_waiting, capacity.step_tokens, capacity.step_seconds),
        )
        self._guesses = Guesses(drafter or LookupDrafter(), capacity, self._counters)
        self._writer = Writer(Sampler(model.vocab_size), self._eog_ids, self._counters, self._outbox)
        max_blocks = -(-capacity.context_length // capacity.block_size)
        self._inputs = StepInputs(capacity.max_running, capacity.step_tokens, max_blocks, capacity.max_logits)
        self._chores = Chores()
        step_blocks = self._pool.num_needed(capacity.step_tokens) + capacity.max_running
        self.prefixes = Prefixes(self._pool, model, store, self._inbox.offer, self._chores, step_blocks)
        self.places = Places(capacity.max_running, self._pool, self.prefixes)  # for `call` and `carry_out`
        self._generations: dict[Sequence, Generation] = {}
        self._num_begun = 0
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
        self._inbox.close()
        self._thread.join()

    def submit(self, request: Request, sink: Sink) -> Generation:
        """Queues a request. Its events, Overloaded among them, go to `sink`.

        Raises InvalidRequest, ContextExceeded, Unavailable.
        """
        check_fits(request, self.capacity)
        sequence = sequence_for(request, self.capacity, time.perf_counter())
        sampler = SamplerState(request.sampling, self._eog_ids, request.memory)
        generation = Generation(request, sequence, sampler, sink)
        self._inbox.put(partial(self._accept, generation))
        return generation

    def cancel(self, generation: Generation) -> None:
        """Frees what the request holds before the next step; nothing happens if it has ended."""
        self._inbox.offer(partial(self._drop, generation))

    def call(self, function: Callable[[], _Result]) -> "Future[_Result]":
        """Runs a function in the engine's thread, between two steps. Raises Unavailable."""
        return self._inbox.call(function)

    def carry_out(self, work: Work[_Result]) -> "Future[_Result]":
        """Does long work in the engine's thread, a piece between two steps. Raises Unavailable."""
        future: Future[_Result] = Future()
        self._inbox.put(lambda: self._chores.add(promised(work, future)))
        return future

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
            pool.num_nodes, pool.num_prefixes, pool.digest,
        )  # fmt: skip

    def _run(self) -> None:
        try:
            while self._take():
                self._chores.advance()
                if self._scheduler.has_work:
                    self._busy = True
                    self._step()
                    self._busy = False
                self._outbox.send()
            self._chores.finish()
            self._fail(list(self._generations), Unavailable("the worker is ending"))
            self._outbox.send()
            self.prefixes.close()
        except BaseException as error:
            log.critical("the engine cannot go on", exc_info=True)
            self._on_death(error)

    def _take(self) -> bool:
        """Does what others asked for, and waits for it if there is nothing else to do; False: the engine shall end."""
        is_idle = not self._scheduler.has_work
        if is_idle:
            self._cores.release()
        return self._inbox.take(wait=is_idle and not self._chores)

    def _step(self) -> None:
        batch = self._schedule()
        if not batch.sequences:  # who is first in line waits for blocks that are being copied
            return
        try:
            logits, seconds = self._forward(batch)
        except Exception:
            log.exception("a step of %d sequences failed", len(batch.sequences))
            self._fail(batch.sequences, ComputeFailed("the model failed to compute this request"))
            return
        caught_up = self._commit(batch, seconds)
        self._sample(batch, logits, caught_up)

    def _schedule(self) -> Batch:
        began = time.perf_counter()
        guesses = self._guesses.make(self._scheduler.running)
        batch = self._scheduler.schedule(guesses, self._guesses.seconds)
        for sequence in batch.admitted:
            self._begin(self._generations[sequence], began)
        return batch

    def _forward(self, batch: Batch) -> tuple[FloatArray, float]:
        """Logits of the sequences that catch up, each one's drafts behind its last token, and the seconds that took."""
        inputs = self._inputs.fill(batch)
        with self._cores.step(shared=not batch.num_read):
            began = time.perf_counter()  # the wait for the cores says nothing of the step's size
            logits = self._model.forward(*inputs)
            return logits, time.perf_counter() - began

    def _commit(self, batch: Batch, seconds: float) -> set[Sequence]:
        """Notes what was computed. Returns the sequences that now lack their next token."""
        caught_up = set(self._scheduler.commit(batch, seconds))
        longest = max([sequence.num_computed for sequence in batch.sequences], default=0)
        self._counters.count_step(self._guesses.seconds + seconds, len(batch.sequences), longest)
        return caught_up

    def _sample(self, batch: Batch, logits: FloatArray, caught_up: set[Sequence]) -> None:
        """Gives sequences what their logits say. What fails for one of them does no harm to the others."""
        now = time.perf_counter()
        for sequence, rows in self._inputs.split(batch, logits):
            try:
                self._tell_progress(self._generations[sequence], now)
                if sequence.most_per_step < NO_LIMIT:
                    self._writer.score_prompt(self._generations[sequence], rows)
                if sequence in caught_up:
                    drafts = batch.drafts.get(sequence, NOTHING)
                    self._extend(self._generations[sequence], rows[-1 - drafts.size :], drafts, now)
            except RequestError as error:
                self._fail([sequence], error)
            except Exception:
                log.exception("sampling failed")
                self._fail([sequence], ComputeFailed("the model failed to compute this request"))

    def _extend(self, generation: Generation, logits: FloatArray, drafts: Tokens, now: float) -> None:
        """Gives a generation its next tokens, unless it is over already; logits: of its last token and its drafts."""
        self._note_time(generation, now)
        reason = self._writer.ended(generation) or self._follow(generation, logits, drafts)
        if reason is not None:
            self._finish(generation, reason)
        elif is_overfull(generation.sequence, self.capacity):
            self._scheduler.shift(generation.sequence, *shift(generation.request, self.capacity))

    def _follow(self, generation: Generation, logits: FloatArray, drafts: Tokens) -> FinishReason | None:
        """Writes tokens for as long as they are the drafted ones, and one more; says whether it is the last."""
        sequence, num_accepted = generation.sequence, 0
        reason = self._writer.write(generation, logits[0])
        while reason is None and num_accepted < drafts.size and sequence.last_token == drafts[num_accepted]:
            self._scheduler.accept(sequence)
            num_accepted += 1
            reason = self._writer.write(generation, logits[num_accepted])
        if drafts.size:
            self._guesses.observe(generation, drafts.size, num_accepted)
        return reason

    def _tell_progress(self, generation: Generation, now: float) -> None:
        if generation.request.tells_progress and not generation.first_token:
            self._outbox.put(generation.sink, generation.progress(now))

    def _note_time(self, generation: Generation, now: float) -> None:
        if generation.first_token:
            self._counters.predicted_seconds += now - generation.last_token
        else:
            generation.first_token = now
            self._counters.prompt_seconds += now - generation.began
        generation.last_token = now

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
        self._outbox.put(generation.sink, generation.started())
        self._tell_progress(generation, now)

    def _finish(self, generation: Generation, reason: FinishReason) -> None:
        self._outbox.put(generation.sink, generation.finished(reason))
        self.prefixes.remember(generation.sequence)
        self._scheduler.remove(generation.sequence, stayed=generation.last_token - generation.began)
        self._forget(generation.sequence)

    def _fail(self, sequences: Items[Sequence], error: WorkerError) -> None:
        """Ends sequences. Unless it was the request's own fault, what was computed for them is not to be trusted."""
        forget = not isinstance(error, RequestError)
        for sequence in sequences:
            self._outbox.put(self._generations[sequence].sink, Failed(error))
            self._scheduler.remove(sequence, forget=forget)
            self._forget(sequence)

    def _forget(self, sequence: Sequence) -> None:
        del self._generations[sequence]
        self._guesses.forget(sequence)
