"""The line in front of one model: whose request goes next, how long it may take. Pure: times are passed in.

Each key has a counter of the tokens it was served, divided by its weight; the waiting key with the lowest counter goes
next (virtual token counters: Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024). A request is
charged its estimate when it goes and the real count when it ends. A key that comes back from idleness starts at the
lowest counter among those that wait or are being served, so that idleness is not saved up.

Owned by admission.py. Invariant: while a place is free nobody waits, and a request of higher priority goes first.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

SMOOTHING = 0.2  # weight of the newest service time in their average
FIRST_GUESS = 1.0  # seconds a request is thought to take before any has ended


@dataclass(eq=False, slots=True)
class Ticket:
    """One generation that waits or is being served. `cost` is its estimate in tokens."""

    key: str
    cost: float
    weight: float = 1.0
    priority: int = 0
    began: float = 0.0  # when it was given its place


@dataclass(slots=True)
class _Tenant:
    """One key's standing."""

    counter: float = 0.0
    waiting: dict[int, deque[Ticket]] = field(default_factory=dict)  # by priority
    num_running: int = 0

    @property
    def num_waiting(self) -> int:
        return sum(map(len, self.waiting.values()))


class FairQueue:
    """Tickets wait in it until there is a place for them. A capacity below 1 counts as 1."""

    def __init__(self, capacity: int = 1) -> None:
        self.capacity = capacity
        self.num_running = 0
        self.num_waiting = 0
        self._tenants: dict[str, _Tenant] = {}
        self._service_seconds: float | None = None  # on average, of one request

    def enter(self, ticket: Ticket, now: float) -> bool:
        """Gives a ticket its place at once, if one is free and nobody waits for it."""
        if self.num_waiting or self.num_running >= max(self.capacity, 1):
            return False
        self._begin(self._tenant(ticket), ticket, now)
        return True

    def join(self, ticket: Ticket) -> None:
        """Puts a ticket at the end of its key's line."""
        self._tenant(ticket).waiting.setdefault(ticket.priority, deque()).append(ticket)
        self.num_waiting += 1

    def leave(self, ticket: Ticket) -> None:
        """Takes out a ticket that waits."""
        self._remove(self._tenants[ticket.key], ticket)
        self._forget_idle()

    def next(self, now: float) -> Ticket | None:
        """Gives the next ticket its place; None if nobody waits or no place is free."""
        if not self.num_waiting or self.num_running >= max(self.capacity, 1):
            return None
        tenant, line = self._first()
        ticket = line.popleft()
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
        tenant.counter += ticket.cost / ticket.weight
        tenant.num_running += 1
        self.num_running += 1
        ticket.began = now

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
        self.num_running -= 1
        self._forget_idle()

    def position(self, ticket: Ticket) -> int:
        """How many waiting tickets go before this one, if nobody else comes."""
        return next(number for number, each in enumerate(self._order()) if each is ticket)

    def wait_seconds(self, position: int) -> float:
        """How long a ticket at that position will wait, from the rate at which requests have ended."""
        seconds = FIRST_GUESS if self._service_seconds is None else self._service_seconds
        return (position + 1) * seconds / max(self.capacity, 1)

    def _first(self) -> tuple[_Tenant, deque[Ticket]]:
        """Whose line is next, as `_order` has it, and that line. Somebody must wait."""
        first: tuple[_Tenant, deque[Ticket]] | None = None
        best = (-math.inf, 0.0)
        for tenant in self._tenants.values():
            for priority, line in tenant.waiting.items():
                if line and (priority, -tenant.counter) > best:
                    first, best = (tenant, line), (priority, -tenant.counter)
        assert first is not None
        return first

    def _order(self) -> Iterator[Ticket]:
        """All waiting tickets in the order in which they go, found by playing it through."""
        priorities = {each for tenant in self._tenants.values() for each, line in tenant.waiting.items() if line}
        counters = {name: tenant.counter for name, tenant in self._tenants.items()}
        for priority in sorted(priorities, reverse=True):
            lines = {name: iter(tenant.waiting.get(priority, ())) for name, tenant in self._tenants.items()}
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
        tenant.waiting[ticket.priority].remove(ticket)
        self.num_waiting -= 1

    def _forget_idle(self) -> None:
        """Counters only mean something beside others: when nobody is left, all start anew."""
        if not self.num_running and not self.num_waiting:
            self._tenants.clear()
