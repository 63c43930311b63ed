"""Who may go to a model now, and who waits: a FairQueue for each model, and the requests that wait in it.

Called by call.py. Waiters are woken in the queue's order and leave it when they are cancelled, as a client that goes
away does. Invariant: a place that was given is given back, however the work in it ends.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Self

from router.config import KeyConfig, LimitsConfig
from router.errors import Overloaded, QueueTimeout
from router.policy.fairqueue import ANY_SLOT, USUAL_URGENCY, FairQueue, Ticket

Clock = Callable[[], float]


class Place:
    """A place in front of a model's worker; leaving it gives it back."""

    __slots__ = ("_finish", "position", "waited")

    def __init__(self, position: int, waited: float, finish: Callable[[], None]) -> None:
        self.position = position  # of how many it had to wait for
        self.waited = waited  # seconds
        self._finish = finish

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()


class Admission:
    """The lines of all models."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queues: dict[str, FairQueue] = {}
        self._waiters: dict[Ticket, asyncio.Future[None]] = {}

    async def place(
        self,
        model: str,
        key: KeyConfig,
        cost: float,
        capacity: int,
        limits: LimitsConfig,
        used: Callable[[], float],
        *,
        patient: bool = False,
        urgency: int = USUAL_URGENCY,
        slot: int = ANY_SLOT,
    ) -> Place:
        """A place of the model, waiting for it in line; to be entered at once.

        `capacity` is how many may be at the model at once, but for those that fairqueue.py lets overtake or wait for a
        `slot`, unless the limits say how many; `used` says, in the end, how many tokens the request took.
        A `patient` request joins even a full line: it belongs to one that was admitted already. Raises Overloaded if
        the line is full or too slow.
        """
        queue = self._queues.get(model)
        if queue is None:
            queue = self._queues[model] = FairQueue()
        queue.capacity, queue.allows_overtaking = capacity, not limits.in_flight
        arrived = self._clock()
        slot = ANY_SLOT if limits.in_flight else slot
        ticket = Ticket(key.name, cost, key.weight, key.priority, urgency, arrived, slot)
        if queue.num_waiting >= limits.queue and queue.is_full(ticket) and not patient:
            raise full(model, queue, limits)
        position = await self._admitted(model, queue, ticket, limits)

        def finish() -> None:
            queue.finish(ticket, used(), self._clock())
            self._wake(queue)

        return Place(position, self._clock() - arrived, finish)

    def is_idle(self, model: str) -> bool:
        """Whether nobody waits in front of the model."""
        return self.num_waiting(model) == 0

    def num_waiting(self, model: str) -> int:
        """Requests that wait in front of the model."""
        queue = self._queues.get(model)
        return queue.num_waiting if queue is not None else 0

    async def _admitted(self, model: str, queue: FairQueue, ticket: Ticket, limits: LimitsConfig) -> int:
        """Returns once the ticket has its place, with the number of those it had to wait for."""
        self._wake(queue)  # the capacity may have grown
        if queue.enter(ticket, self._clock()):
            return 0
        queue.join(ticket)
        waiter = self._waiters[ticket] = asyncio.get_running_loop().create_future()
        position = queue.position(ticket)
        try:
            async with asyncio.timeout(limits.queue_timeout):
                await waiter
        except BaseException as error:
            self._give_up(queue, ticket)
            if isinstance(error, TimeoutError):
                raise too_slow(model, queue, limits) from None
            raise
        return position + 1

    def _wake(self, queue: FairQueue) -> None:
        """Gives free places to those who are next."""
        while ticket := queue.next(self._clock()):
            waiter = self._waiters.pop(ticket)
            if not waiter.done():  # else it is being cancelled, and gives its place back itself
                waiter.set_result(None)

    def _give_up(self, queue: FairQueue, ticket: Ticket) -> None:
        """Takes out a ticket that waits, or gives back the place it was given while it was being cancelled."""
        if self._waiters.pop(ticket, None) is not None:
            queue.leave(ticket)
        else:
            queue.give_back(ticket)
        self._wake(queue)


def full(model: str, queue: FairQueue, limits: LimitsConfig) -> Overloaded:
    """The line is as long as it may be."""
    wait = queue.wait_seconds(queue.num_waiting)
    message = f"{queue.num_waiting} requests wait for model '{model}' already, as many as may (limits.queue)"
    return Overloaded(message, math.ceil(wait), headers=_headers(queue.num_waiting + 1, wait))


def too_slow(model: str, queue: FairQueue, limits: LimitsConfig) -> QueueTimeout:
    """The wait was longer than allowed."""
    wait = queue.wait_seconds(queue.num_waiting)
    message = f"model '{model}' had no place within {limits.queue_timeout:g} s (limits.queue-timeout)"
    return QueueTimeout(message, math.ceil(wait), headers=_headers(queue.num_waiting + 1, wait))


def _headers(position: int, wait: float) -> dict[str, str]:
    return {"x-corral-queue-position": str(position), "x-corral-queue-wait-ms": str(math.ceil(wait * 1000))}
