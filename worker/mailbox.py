"""The engine's two boxes: what other threads want done in its thread comes in, its requests' events go out.

The engine owns both; any thread may put into the inbox. Invariant: what `put` and `call` took is done before the engine
ends, or they refuse it; and the events of one step leave in one piece, in the order in which they came.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

from worker.errors import Unavailable
from worker.generation import Event, Sink

Message = Callable[[], None]
Post = Callable[[list[tuple[Sink, Event]]], None]
_Result = TypeVar("_Result")


class Inbox:
    """Functions to be called in the engine's thread, between two steps."""

    def __init__(self) -> None:
        self._messages: SimpleQueue[Message | None] = SimpleQueue()
        self._door = threading.Lock()  # what is put comes before the end, or not at all
        self._is_open = True

    def put(self, message: Message) -> None:
        """Raises Unavailable where nobody would read it any more."""
        with self._door:
            if not self._is_open:
                raise Unavailable("the worker is ending")
            self._messages.put(message)

    def offer(self, message: Message) -> None:
        """Puts what is of no interest once the engine has ended."""
        self._messages.put(message)

    def call(self, function: Callable[[], _Result]) -> "Future[_Result]":
        """Its result, once the engine's thread has called it. Raises Unavailable."""
        future: Future[_Result] = Future()

        def resolve() -> None:
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        self.put(resolve)
        return future

    def close(self) -> None:
        """The last message."""
        with self._door:
            self._is_open = False
            self._messages.put(None)

    def take(self, *, wait: bool) -> bool:
        """Does what has come, once waiting for it; False: it was closed, and all that came before is done."""
        while wait or not self._messages.empty():
            message = self._messages.get()
            wait = False
            if message is None:
                return False
            message()
        return True


class Outbox:
    """Events on their way to those who asked."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._events: list[tuple[Sink, Event]] = []

    def put(self, sink: Sink, event: Event) -> None:
        self._events.append((sink, event))

    def send(self) -> None:
        if self._events:
            self._post(self._events)
            self._events = []
