"""Who runs next. The scheduler owns it; pure: times come with the sequences.

Clients are served in turn by weight: whose requests have taken the fewest tokens per weight comes first (start-time
fair queueing, Goyal, Vin and Cheng 1996). Among a client's own requests a step of priority counts as having come
HEAD_START seconds earlier, so that a low priority waits longer but not for ever. Who was running and had to give its
blocks back goes before all of them; who made way for a higher priority goes where it would be had it waited. That
ends, too: once it is old enough, nobody who comes is before it in that order. Who wants a place that is taken is set
aside until that is free, and then waits in its order again: meanwhile it holds up nobody.

Invariant: a client that has nothing here and nothing running is forgotten, so that names that come and go take no
memory, and nobody saves up turns by staying away.
"""

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

from worker.sequence import Sequence

HEAD_START = 10.0  # seconds per step of priority

_Entry = tuple[float, int, Sequence]  # what it is ordered by, a number that settles ties, itself


@dataclass(slots=True)
class _Client:
    served: float  # tokens per weight
    waiting: list[_Entry] = field(default_factory=list)  # a heap
    num_open: int = 0  # waiting and running


class WaitingLine:
    """Owns the order of those who wait, and what their clients have had."""

    def __init__(self) -> None:
        self._returned: deque[Sequence] = deque()
        self._clients: dict[str, _Client] = {}
        self._aside: dict[int, list[Sequence]] = {}  # by the place that they wait for
        self._numbers = count()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, sequence: Sequence) -> bool:
        client = self._clients.get(sequence.standing.client)
        return (
            sequence in self._returned
            or sequence in self._aside.get(sequence.wanted_place, ())
            or (client is not None and any(entry[2] is sequence for entry in client.waiting))
        )

    def add(self, sequence: Sequence) -> None:
        standing = sequence.standing
        client = self._clients.get(standing.client)
        if client is None:
            # It starts where those are who had least: it owes nothing and is owed nothing.
            least = min((other.served for other in self._clients.values()), default=0.0)
            client = self._clients[standing.client] = _Client(least)
        client.num_open += 1
        self._line_up(sequence)

    def first(self) -> Sequence | None:
        """Whose turn it is; None: nobody waits but those who are set aside."""
        if self._returned:
            return self._returned[0]
        waiting = (client for client in self._clients.values() if client.waiting)
        client = min(waiting, key=lambda client: (client.served, client.waiting[0][:2]), default=None)
        return client.waiting[0][2] if client is not None else None

    def pop(self) -> Sequence:
        """Takes out whose turn it is; there must be one."""
        sequence = self.first()
        assert sequence is not None
        if self._returned:
            self._returned.popleft()
        else:
            heapq.heappop(self._clients[sequence.standing.client].waiting)
        self._size -= 1
        return sequence

    def put_back(self, sequence: Sequence) -> None:
        """One that was popped goes first; of several, the one put back last."""
        self._returned.appendleft(sequence)
        self._size += 1

    def put_in_turn(self, sequence: Sequence) -> None:
        """One that was popped waits again, in its order."""
        self._line_up(sequence)

    def set_aside(self) -> None:
        """Whose turn it is waits, and holds up nobody, until `call_back` of the place that it wants."""
        sequence = self.pop()
        self._size += 1
        self._aside.setdefault(sequence.wanted_place, []).append(sequence)

    def call_back(self, place: int) -> None:
        """The place is free: who was set aside for it waits in its order again."""
        for sequence in self._aside.pop(place, ()):
            self._size -= 1
            self._line_up(sequence)

    def wanted_places(self) -> set[int]:
        """Those of sequences that may run nowhere else, and are not set aside."""
        return {entry[2].wanted_place for client in self._clients.values() for entry in client.waiting}

    def first_aside(self, place: int) -> Sequence | None:
        """Of those set aside for a place, the one that comes first."""
        return min(self._aside.get(place, ()), key=_order, default=None)

    def remove(self, sequence: Sequence) -> None:
        """Takes out one that waits, for good."""
        if sequence in self._returned:
            self._returned.remove(sequence)
        elif sequence in (aside := self._aside.get(sequence.wanted_place, [])):
            aside.remove(sequence)
        else:
            waiting = self._clients[sequence.standing.client].waiting
            waiting[:] = [entry for entry in waiting if entry[2] is not sequence]
            heapq.heapify(waiting)
        self._size -= 1
        self.leave(sequence)

    def charge(self, sequence: Sequence, num_tokens: int) -> None:
        """Notes that tokens were computed for one that is open."""
        self._clients[sequence.standing.client].served += num_tokens / sequence.standing.weight

    def leave(self, sequence: Sequence) -> None:
        """Notes that one that was popped or removed will not come back."""
        name = sequence.standing.client
        client = self._clients[name]
        client.num_open -= 1
        if not client.num_open:
            del self._clients[name]

    def _line_up(self, sequence: Sequence) -> None:
        entry = _order(sequence), next(self._numbers), sequence
        heapq.heappush(self._clients[sequence.standing.client].waiting, entry)
        self._size += 1


def outranked(first: Sequence, running: Iterable[Sequence]) -> Sequence | None:
    """Of those that run, the one to make way for one that waits: the last of its client's that have a lower priority
    and come behind it."""
    behind = [
        sequence
        for sequence in running
        if sequence.standing.client == first.standing.client
        and sequence.standing.priority < first.standing.priority
        and _order(sequence) > _order(first)
    ]
    return max(behind, key=_order, default=None)


def _order(sequence: Sequence) -> float:
    """Among a client's own: the least first."""
    return sequence.standing.arrived - HEAD_START * sequence.standing.priority
