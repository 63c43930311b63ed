"""Whose turn it is to compute: the decisions of the core lease, and the one word of shared memory they are written in.

lease.py calls it. Pure: no clock, no memory, no process.

    a turn, 64 bits    [ 32: a bit for each slot that waits | 24: number of the turn | 8: 1 + slot that computes, or 0 ]

The lower half changes with every change of hands and with nothing else, so that a sleeper can watch it.

Fairness is start-time fair queuing (Goyal, Vin and Cheng 1996): a slot's virtual time is the time it computed, divided
by its weight, and the slot that is furthest behind comes next. Whoever comes back from idleness starts no earlier than
the clock, the virtual time at which the last step began: idleness earns no credit.
Invariant: the slots that wait never include the one that computes.
"""

from collections.abc import Mapping

NUM_SLOTS = 32
NOBODY = -1

_HOLDER_MASK = 0xFF
_NUMBER_SHIFT, _NUMBER_MASK = 8, 0xFFFFFF
_WAITING_SHIFT = 32


def holder(turn: int) -> int:
    """The slot that computes, or NOBODY; beyond NUM_SLOTS only if the memory is damaged."""
    return (turn & _HOLDER_MASK) - 1


def is_waiting(turn: int, slot: int) -> bool:
    return bool(turn >> _WAITING_SHIFT & 1 << slot)


def waiting(turn: int) -> list[int]:
    bits = turn >> _WAITING_SHIFT
    return [slot for slot in range(bits.bit_length()) if bits >> slot & 1]


def with_waiting(turn: int, slot: int) -> int:
    return turn | 1 << _WAITING_SHIFT + slot


def without_waiting(turn: int, slot: int) -> int:
    return turn & ~(1 << _WAITING_SHIFT + slot)


def handed_to(turn: int, slot: int) -> int:
    """The next turn: the slot, or NOBODY, computes and waits no longer."""
    number = (turn >> _NUMBER_SHIFT) + 1 & _NUMBER_MASK
    waiting = turn >> _WAITING_SHIFT << _WAITING_SHIFT
    next_turn = waiting | number << _NUMBER_SHIFT | slot + 1
    return next_turn if slot == NOBODY else without_waiting(next_turn, slot)


def is_open(turn: int) -> bool:
    """Nobody computes in a turn and nobody waits for one: short steps need none."""
    return holder(turn) == NOBODY and not turn >> _WAITING_SHIFT


def opened(turn: int) -> int:
    """The next turn: it is nobody's, and nobody waits any longer."""
    return handed_to(turn, NOBODY) & (1 << _WAITING_SHIFT) - 1


def furthest_behind(virtual_times: Mapping[int, int]) -> int:
    """The slot that comes next of those that wait; NOBODY if none does."""
    return min(virtual_times, key=lambda slot: (virtual_times[slot], slot), default=NOBODY)


def goes_on(own: int, virtual_times: Mapping[int, int], quantum: int) -> bool:
    """Whether the slot that computes stays: somebody waits, but nobody is more than the quantum behind it.

    So two slots of equal weight, always busy, have turns of twice the quantum.
    """
    return bool(virtual_times) and own <= min(virtual_times.values()) + quantum


def charged(virtual_time: int, nanoseconds: int, weight: float) -> int:
    """Virtual time after computing for so long."""
    return virtual_time + int(nanoseconds / weight)
