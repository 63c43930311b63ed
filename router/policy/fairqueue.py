"""The line in front of one model: whose request goes next, how long it may take. Pure: times are passed in.

Each key has a counter of the tokens it was served, divided by its weight; the waiting key with the lowest counter goes
next (virtual token counters: Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024). A request is
charged its estimate when it goes and the real count when it ends. A key that comes back from idleness starts at the
lowest counter among those that wait or are being served, so that idleness is not saved up.

Among a key's own requests a step of urgency counts as having come HEAD_START seconds earlier, as it does in the worker
(worker/waiting_line.py). One that would have a running one make way there is not held up here: it overtakes, and the
other one's place counts as its own until it ends. Nor are requests for one slot held up by those for others: they have
places of their own, one to be served at and one to wait.

Owned by admission.py. Invariant: while a place is free nobody waits for it, and a key of higher priority goes first.
"""

import math
from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter

SMOOTHING = 0.2  # weight of the newest service time in their average
FIRST_GUESS = 1.0  # seconds a request is thought to take before any has ended
HEAD_START = 10.0  # seconds per step of urgency
USUAL_URGENCY = 5
ANY_SLOT = -1
_PLACES_PER_SLOT = 2


@dataclass(eq=False, slots=True)
class Ticket:
    """One generation that waits or is being served. `cost` is its estimate in tokens."""

    key: str
    cost: float
    weight: float = 1.0
    priority: int = 0  # of the key
    urgency: int = USUAL_URGENCY  # among the key's own: the request's priority
    arrived: float = 0.0
    slot: int = ANY_SLOT  # the only one where it may be served
    began: float = 0.0  # when it was given its place
    overtaken_by: "Ticket | None" = None  # one that has its place for as long as it is being served

    @property
    def order(self) -> float:
        """Among its key's own: the least first."""
        return self.arrived - HEAD_START * self.urgency

    def overtakes(self, other: "Ticket") -> bool:
        """Whether the worker would have the other one make way."""
        return (
            other.key == self.key
            and other.slot == self.slot
            and other.urgency < self.urgency
            and other.order > self.order
        )


@dataclass(slots=True)
class _Tenant:
    """One key's standing."""

    counter: float = 0.0
    waiting: dict[tuple[int, int], list[Ticket]] = field(default_factory=dict)  # by priority and slot, in order
    num_running: int = 0

    @property
    def num_waiting(self) -> int:
        return sum(map(len, self.waiting.values()))

    def in_order(self, priority: int) -> list[Ticket]:
        """Its tickets of a priority, for all slots."""
        lines = (line for (each, _), line in self.waiting.items() if each == priority)
        return sorted(chain.from_iterable(lines), key=attrgetter("order"))


class FairQueue:
    """Tickets wait in it until there is a place for them. A capacity below 1 counts as 1."""

    def __init__(self, capacity: int = 1) -> None:
        self.capacity = capacity
        self.allows_overtaking = True
        self.num_waiting = 0
        self._running: set[Ticket] = set()
        self._tenants: dict[str, _Tenant] = {}
        self._service_seconds: float | None = None  # on average, of one request

    @property
    def num_running(self) -> int:
        return len(self._running)

    def is_full(self, ticket: Ticket) -> bool:
        """Whether the ticket would have to wait."""
        return not self._has_place(ticket.slot) and self._overtaken(ticket) is None

    def enter(self, ticket: Ticket, now: float) -> bool:
        """Gives a ticket its place at once, if one is free or there is one to overtake, and nobody comes before it."""
        lines = [line for _, line in self._lines() if line[0].slot == ticket.slot] if self.num_waiting else []
        if self._has_place(ticket.slot):
            may_enter = not lines
        else:
            comes_first = all(ticket.order < line[0].order for line in lines if line[0].key == ticket.key)
            may_enter = comes_first and self._overtaken(ticket) is not None
        if may_enter:
            self._begin(self._tenant(ticket), ticket, now)
        return may_enter

    def join(self, ticket: Ticket) -> None:
        """Puts a ticket into its key's line."""
        line = self._tenant(ticket).waiting.setdefault((ticket.priority, ticket.slot), [])
        insort(line, ticket, key=attrgetter("order"))
        self.num_waiting += 1

    def leave(self, ticket: Ticket) -> None:
        """Takes out a ticket that waits."""
        self._remove(self._tenants[ticket.key], ticket)
        self._forget_idle()

    def next(self, now: float) -> Ticket | None:
        """Gives the next ticket its place; None if nobody waits or no place is free."""
        first = self._first() if self.num_waiting else None
        if first is None:
            return None
        tenant, line = first
        ticket = line.pop(0)
        self.num_waiting -= 1
        self._begin(tenant, ticket, now)
        return ticket

    def finish(self, ticket: Ticket, num_tokens: float, now: float) -> None:
        """Frees a ticket's place; the real count takes the place of the estimate."""
        seconds = max(now - ticket.began, 0.0)
        known = self._service_seconds
        self._service_seconds = seconds if known is None else known + SMOOTHING * (seconds - known)
        self._free(ticket, num_tokens)

    def give_back(self, ticket: Ticket) -> None:
        """Frees a place that was never used."""
        self._free(ticket, 0)

    def _begin(self, tenant: _Tenant, ticket: Ticket, now: float) -> None:
        if not self._has_place(ticket.slot) and (overtaken := self._overtaken(ticket)) is not None:
            overtaken.overtaken_by = ticket
        tenant.counter += ticket.cost / ticket.weight
        tenant.num_running += 1
        self._running.add(ticket)
        ticket.began = now

    def _has_place(self, slot: int) -> bool:
        num_places = max(self.capacity, 1) if slot == ANY_SLOT else _PLACES_PER_SLOT
        return sum(each.slot == slot and self._has_own_place(each) for each in self._running) < num_places

    def _has_own_place(self, running: Ticket) -> bool:
        return running.overtaken_by not in self._running

    def _overtaken(self, ticket: Ticket) -> Ticket | None:
        """The last of those that are served whose place it may take."""
        if not self.allows_overtaking:
            return None
        behind = [each for each in self._running if self._has_own_place(each) and ticket.overtakes(each)]
        return max(behind, key=attrgetter("order"), default=None)

    def _tenant(self, ticket: Ticket) -> _Tenant:
        """Its key, which has a new ticket."""
        tenant = self._tenants.get(ticket.key)
        if tenant is None:
            tenant = self._tenants[ticket.key] = _Tenant()
        if not tenant.num_running and not tenant.num_waiting:
            active = [each.counter for each in self._tenants.values() if each.num_running or each.num_waiting]
            tenant.counter = max(tenant.counter, min(active, default=0.0))
        return tenant

    def _free(self, ticket: Ticket, num_tokens: float) -> None:
        tenant = self._tenants[ticket.key]
        tenant.counter += (num_tokens - ticket.cost) / ticket.weight
        tenant.num_running -= 1
        self._running.remove(ticket)
        self._forget_idle()

    def position(self, ticket: Ticket) -> int:
        """How many waiting tickets go before this one, if nobody else comes."""
        return next(number for number, each in enumerate(self._order()) if each is ticket)

    def wait_seconds(self, position: int) -> float:
        """How long a ticket at that position will wait, from the rate at which requests have ended."""
        seconds = FIRST_GUESS if self._service_seconds is None else self._service_seconds
        return (position + 1) * seconds / max(self.capacity, 1)

    def _lines(self) -> Iterator[tuple[_Tenant, list[Ticket]]]:
        return ((tenant, line) for tenant in self._tenants.values() for line in tenant.waiting.values() if line)

    def _first(self) -> tuple[_Tenant, list[Ticket]] | None:
        """Whose line is next, as `_order` has it, of those that need not wait."""
        first: tuple[_Tenant, list[Ticket]] | None = None
        best = (-math.inf, 0.0, 0.0)
        for tenant, line in self._lines():
            standing = line[0].priority, -tenant.counter, -line[0].order
            if standing > best and not self.is_full(line[0]):
                first, best = (tenant, line), standing
        return first

    def _order(self) -> Iterator[Ticket]:
        """All waiting tickets in the order in which they go, found by playing it through."""
        counters = {name: tenant.counter for name, tenant in self._tenants.items()}
        for priority in sorted({line[0].priority for _, line in self._lines()}, reverse=True):
            lines = {name: iter(tenant.in_order(priority)) for name, tenant in self._tenants.items()}
            heads = {name: head for name, line in lines.items() if (head := next(line, None))}
            while heads:
                name = min(heads, key=lambda each: counters[each])
                ticket = heads.pop(name)
                yield ticket
                counters[name] += ticket.cost / ticket.weight
                following = next(lines[name], None)
                if following is not None:
                    heads[name] = following

    def _remove(self, tenant: _Tenant, ticket: Ticket) -> None:
        tenant.waiting[ticket.priority, ticket.slot].remove(ticket)
        self.num_waiting -= 1

    def _forget_idle(self) -> None:
        """Counters only mean something beside others: when nobody is left, all start anew."""
        if not self._running and not self.num_waiting:
            self._tenants.clear()
