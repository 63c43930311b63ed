"""The generations of one client, from their messages to their ends: what comes of all of them is taken together.

service.py makes an Exchange for each Generate and each Serve. Owned by the event loop: the engine's events are posted
into it once per step, and whoever writes to the client is woken once for all of them. Invariant: however an Exchange
ends, its requests leave the engine, and every place at the Entrance is given back.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from protos import inference_pb2 as pb
from worker.errors import InvalidRequest, Overloaded, Unavailable
from worker.generation import Event, Failed, Finished, Generation, Sink, of_no_prompt
from worker.rpc.generate_rpc import read_request, replies
from worker.rpc.loaded import LoadedModel
from worker.traces import Trace, Traces

NUM_TEXT_THREADS = 2

Outcome = pb.Arrived | pb.GenerateReply | Exception
_Result = TypeVar("_Result")


class Entrance:
    """How many generations are open, over all clients, and whether more may come."""

    def __init__(self, max_open: int, traces: Traces) -> None:
        self.traces = traces
        self.model: LoadedModel | None = None  # None: it loads
        self.num_open = 0
        self._max_open = max_open
        self._text_threads = ThreadPoolExecutor(NUM_TEXT_THREADS, thread_name_prefix="text")
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    def ready(self) -> LoadedModel:
        """Raises Unavailable."""
        if self.model is None:
            raise Unavailable("the model is loading")
        return self.model

    def enter(self) -> LoadedModel:
        """The model, for a generation that leaves when it has ended. Raises Unavailable, Overloaded."""
        model = self.ready()
        if self._draining:
            raise Unavailable("the worker is ending")
        if self.num_open >= self._max_open:
            raise Overloaded(f"{self.num_open} requests are open already", model.engine.stats().expected_wait)
        self.num_open += 1
        self._empty.clear()
        return model

    def leave(self) -> None:
        self.num_open -= 1
        if not self.num_open:
            self._empty.set()

    async def drain(self) -> None:
        """Lets nobody in any more and returns when the last one has left."""
        self._draining = True
        await self._empty.wait()

    async def in_text_thread(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._text_threads, function, *arguments)


class _Call:
    """One generation. Its client's number for it, and what has come of it and was not taken yet."""

    __slots__ = (
        "events",
        "generation",
        "has_ended",
        "is_waiting",
        "model",
        "number",
        "prompt",
        "reading",
        "said",
        "trace",
    )

    def __init__(self, number: int, trace: Trace) -> None:
        self.number = number
        self.trace = trace
        self.said: list[Outcome] = []  # before the engine had anything to say
        self.events: list[Event] = []
        self.has_ended = False  # nothing will come after these
        self.is_waiting = False  # to be taken
        self.model: LoadedModel | None = None  # set: it has entered
        self.prompt = ""  # its text, if that is wanted
        self.reading: asyncio.Task[None] | None = None
        self.generation: Generation | None = None  # in the engine

    def take(self) -> Iterator[Outcome]:
        """What has come of it since."""
        self.is_waiting = False
        said, self.said = self.said, []
        events, self.events = self.events, []
        yield from said
        if events and self.model is not None:
            yield from replies(events, self.prompt, self.model.prompts)


class Exchange:
    """Iterating over it gives what has come since, as (number, outcome), until it is ended and its calls are, too."""

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance
        self._calls: dict[int, _Call] = {}
        self._changed: list[_Call] = []  # with events
        self._told: list[_Call] = []  # whose end was taken, and perhaps not written yet
        self._is_open = True
        self._wake = asyncio.Event()

    def begin(self, number: int, request: pb.GenerateRequest) -> None:
        """Begins a generation. Raises InvalidRequest for a number in use."""
        if number in self._calls:
            raise InvalidRequest(f"there is a call {number} already")
        trace = self._entrance.traces.begin(request.traceparent, request.tracestate)
        call = self._calls[number] = _Call(number, trace)
        try:
            call.model = self._entrance.enter()
        except Exception as error:
            self._say(call, error)
            return
        self._say(call, pb.Arrived())
        call.reading = asyncio.create_task(self._submit(call, call.model, request))

    def cancel(self, number: int) -> None:
        """Ends a generation of which nothing more shall be heard."""
        if number in self._calls:
            self._drop(self._calls[number])
            self._wake.set()

    def end(self) -> None:
        """No more will begin."""
        self._is_open = False
        self._wake.set()

    def close(self) -> None:
        """Ends all."""
        for call in list(self._calls.values()):
            self._drop(call)

    def __aiter__(self) -> "Exchange":
        return self

    async def __anext__(self) -> list[tuple[int, Outcome]]:
        for call in self._told:  # what was taken before has been written
            self._drop(call)
        self._told.clear()
        while not self._changed:
            if not self._is_open and not self._calls:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        changed, self._changed = self._changed, []
        self._told.extend(call for call in changed if call.has_ended)
        return [(call.number, outcome) for call in changed for outcome in call.take()]

    async def _submit(self, call: _Call, model: LoadedModel, request: pb.GenerateRequest) -> None:
        try:
            wanted, call.prompt = await self._entrance.in_text_thread(read_request, model, request)
            if wanted.prompt:
                call.generation = model.engine.submit(wanted, partial(self._put, call))
                return
            for event in of_no_prompt(wanted):
                self._put(call, event)
        except Exception as error:
            self._say(call, error)

    def _say(self, call: _Call, outcome: Outcome) -> None:
        call.said.append(outcome)
        if isinstance(outcome, Exception):
            call.trace.failed(outcome)
        self._changes(call, ends=isinstance(outcome, Exception))

    def _put(self, call: _Call, event: Event) -> None:
        if call.number in self._calls:  # else it was cancelled, which the engine has not heard yet
            call.events.append(event)
            if isinstance(event, Finished):
                call.trace.ended(event)
            elif isinstance(event, Failed):
                call.trace.failed(event.error)
            self._changes(call, ends=isinstance(event, Finished | Failed))

    def _changes(self, call: _Call, *, ends: bool) -> None:
        call.has_ended = ends
        if not call.is_waiting:
            call.is_waiting = True
            self._changed.append(call)
        self._wake.set()

    def _drop(self, call: _Call) -> None:
        """Takes a call out, wherever it is."""
        if self._calls.pop(call.number, None) is None:
            return
        call.trace.close()
        call.said.clear()
        call.events.clear()
        if call.reading is not None:
            call.reading.cancel()
        if call.generation is not None and call.model is not None and not call.has_ended:
            call.model.engine.cancel(call.generation)
        if call.model is not None:
            self._entrance.leave()


def post_events(events: list[tuple[Sink, Event]]) -> None:
    """In the event loop: hands a step's events to their requests."""
    for sink, event in events:
        sink(event)
