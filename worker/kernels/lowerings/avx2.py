"""vpmaddubsw: two products a word, of an unsigned and a signed byte, summed to 16 bits with saturation.

Sums here never reach that. Small codes are the unsigned operand as they are, and a word holds the products of several
quads. For large ones it could not hold those of one: these are taken less 128, their magnitude is the unsigned operand,
the activation with the code's sign the other one, and each word is widened at once.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from llvmlite import ir

from worker.kernels import llvm
from worker.kernels.codes import QUAD_BYTES, QUADS, Code, Plane
from worker.kernels.lowerings.operand import Operand, take_field
from worker.kernels.lowerings.x86 import look_up, whole

_MOST_ACTIVATION = 127
_CENTRE = 128  # of large codes: no magnitude is above it, so that a word holds a quad's products

_WORDS, _LANES8, _BYTES32 = ir.VectorType(llvm.I16, 16), ir.VectorType(llvm.I32, 8), ir.VectorType(llvm.I8, 32)
_TRIP = 2  # quads that a trip of a loop takes


@dataclass(frozen=True)
class Sums:
    """Sums that are in registers at the same time: of some tokens, and of one or both halves of the rows."""

    halves: range
    tokens: range

    def __len__(self) -> int:
        return len(self.halves) * len(self.tokens)


def _shares(o: Operand) -> list[Sums]:
    """Codes that cost something to put together are put together once for all tokens, the others for four tokens."""
    if o.count > 2 and not _is_cheap(o.code):
        return [Sums(range(half, half + 1), range(o.count)) for half in range(2)]
    return [Sums(range(2), range(first, min(first + 4, o.count))) for first in range(0, o.count, 4)]


def _is_cheap(code: Code) -> bool:
    return len(code.planes) == 1 and not code.table


def dot(b: Any, o: Operand) -> list[Any]:
    """The lowering of block_dot."""
    parts: list[list[Any]] = [[None] * o.count, [None] * o.count]
    dots_of = _dot_unrolled if o.count == 1 else _dot_in_loops
    for share in _shares(o):
        places = itertools.product(share.halves, share.tokens)
        for (half, token), value in zip(places, dots_of(b, o, share), strict=True):
            parts[half][token] = value
    return o.less_bias(b, whole(b, parts), 0 if _num_quads(o.code) else _CENTRE)


def _num_quads(code: Code) -> int:
    """Quads whose products, two of which share a word, can be summed before a word may overflow; 0: a large code."""
    return (2**15 - 1) // (2 * _MOST_ACTIVATION * code.largest)


def _weights(b: Any, code: Code, codes: Any) -> Any:
    """The bytes that take part in products: values of small codes, those of large ones less the centre."""
    if _num_quads(code):
        return look_up(b, code.table, codes)
    if code.table:
        return look_up(b, [value - _CENTRE for value in code.table], codes)
    return b.xor(codes, llvm.constant(codes.type, _CENTRE))  # less or more 128, a byte is the same


def _add_products(
    b: Any, o: Operand, share: Sums, sums: list[Any], quads: list[Any], weights: list[list[Any]], widens: bool
) -> list[Any]:
    """Adds the products of quads, of which words can hold the sum, to words or to lanes.

    weights: by quad and half. One activation after another, each added at once, so that none stays in a register.
    """
    sums, large = sums.copy(), not _num_quads(o.code)
    unsigned = [[_magnitude(b, each) for each in halves] for halves in weights] if large else weights
    for number, token in enumerate(share.tokens):
        activations = [b.bitcast(o.activation(b, quad, token, 8), _BYTES32) for quad in quads]
        for half in range(len(share.halves)):
            words = []
            for each, weight, magnitude in zip(activations, weights, unsigned, strict=True):
                signed = llvm.call(b, "llvm.x86.avx2.psign.b", _BYTES32, each, weight[half]) if large else each
                words.append(llvm.call(b, "llvm.x86.avx2.pmadd.ub.sw", _WORDS, magnitude[half], signed))
            total, place = functools.reduce(b.add, words), half * len(share.tokens) + number
            sums[place] = b.add(sums[place], _widened(b, total) if widens else total)
    return sums


def _magnitude(b: Any, weights: Any) -> Any:
    return llvm.call(b, "llvm.abs.v32i8", _BYTES32, weights, llvm.BIT(0))


def _widened(b: Any, words: Any) -> Any:
    """Sums of two words each."""
    return llvm.call(b, "llvm.x86.avx2.pmadd.wd", _LANES8, words, llvm.constant(_WORDS, 1))


def _add_widened(b: Any, totals: list[Any], sums: list[Any]) -> list[Any]:
    return [b.add(total, _widened(b, words)) for total, words in zip(totals, sums, strict=True)]


def _dot_unrolled(b: Any, o: Operand, share: Sums) -> list[Any]:
    totals = [llvm.constant(_LANES8, 0)] * len(share)
    distance = max(_num_quads(o.code), 1)
    for first in range(o.quads.start, o.quads.stop, distance):
        sums = [llvm.constant(_WORDS, 0)] * len(share)
        for quad in range(first, min(first + distance, o.quads.stop)):
            weights = [_weights(b, o.code, o.codes(b, quad, half, 32)) for half in share.halves]
            sums = _add_products(b, o, share, sums, [quad], [weights], widens=False)
        totals = _add_widened(b, totals, sums)
    return totals


def _dot_in_loops(b: Any, o: Operand, share: Sums) -> list[Any]:
    """The sums of a loop stay words, and are widened after it, if words can hold those of several trips."""
    in_words = _num_quads(o.code) >= 2 * _TRIP
    distance = min([QUADS, *(plane.quads_per_vector for plane in _carried(o.code))])
    if in_words:
        distance = min(distance, _num_quads(o.code) // _TRIP * _TRIP)
    totals = [llvm.constant(_LANES8, 0)] * len(share)
    for first in range(o.quads.start, o.quads.stop, distance):
        quads = range(first, min(first + distance, o.quads.stop))
        if in_words:
            words = _loop(b, o, share, quads, [llvm.constant(_WORDS, 0)] * len(totals), widens=False)
            totals = _add_widened(b, totals, words)
        else:
            totals = _loop(b, o, share, quads, totals, widens=True)
    return totals


def _loop(b: Any, o: Operand, share: Sums, quads: range, sums: list[Any], *, widens: bool) -> list[Any]:
    """Adds the products of some quads, which share the vectors of planes of 1 and 2 bits: these are carried along."""
    planes = _carried(o.code)

    def trip(index: Any, values: list[Any]) -> list[Any]:
        sums, carried = values[: len(share)], values[len(share) :]

        def weights(place: int, number: int) -> Any:
            narrow = carried[number * len(planes) : (number + 1) * len(planes)]
            return _weights(b, o.code, _trip_codes(b, o, quads.start, index, place, share.halves[number], narrow))

        quad = b.add(b.mul(index, llvm.I64(_TRIP)), llvm.I64(quads.start))
        for groups in _order(o.code, widens):
            unpacked = {place: [weights(place, number) for number in range(len(share.halves))]
                        for group in groups for place in group}
            for group in groups:
                places = [b.add(quad, llvm.I64(place)) for place in group]
                sums = _add_products(b, o, share, sums, places, [unpacked[place] for place in group], widens)
        return sums + [_shift_words(b, packed, _TRIP * plane.bits)
                       for packed, plane in zip(carried, planes * len(share.halves), strict=True)]

    carried = [_shift_words(b, o.packed(b, plane, quads.start, half, 32), plane.shift(quads.start))
               for half in share.halves for plane in planes]
    return _rolled_loop(b, len(quads) // _TRIP, sums + carried, trip)[: len(share)]


def _order(code: Code, widens: bool) -> list[list[range]]:
    """A trip's quads: which are unpacked together, and which of those are summed before they are widened.

    Found by measuring: with other orders LLVM keeps more in registers than there are.
    """
    if widens and _num_quads(code) >= _TRIP:
        return [[range(_TRIP)]]
    each = [range(place, place + 1) for place in range(_TRIP)]
    return [each] if _num_quads(code) and _is_cheap(code) else [[place] for place in each]


def _carried(code: Code) -> list[Plane]:
    return [plane for plane in code.planes if plane.quads_per_vector > _TRIP]


def _shift_words(b: Any, packed: Any, distance: int) -> Any:
    """Shifts to the right, letting bits of one byte into its neighbour, where they are masked."""
    return b.bitcast(b.lshr(b.bitcast(packed, _WORDS), llvm.constant(_WORDS, distance)), packed.type)


def _trip_codes(b: Any, o: Operand, first: int, index: Any, place: int, half: int, carried: list[Any]) -> Any:
    """Codes of the quad at a place of trip `index` of the loop that begins at quad `first`."""
    waiting, fields = iter(carried), []
    for plane in o.code.planes:
        if plane.quads_per_vector > _TRIP:
            fields.append(take_field(b, next(waiting), plane, place))
            continue
        moved = replace(o, panel=llvm.at(b, o.panel, index, QUAD_BYTES * _TRIP // plane.quads_per_vector))
        fields.append(take_field(b, moved.packed(b, plane, first + place, half, 32), plane, place))
    return functools.reduce(b.or_, fields)


def _rolled_loop(b: Any, trips: int, initial: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """Runs body(index, values) -> values `trips` times, and keeps LLVM from unrolling it.

    Unrolled, LLVM regroups the additions token by token and spills the weights, at half the speed:
    the loop pins the order. Where there is nothing to regroup, unrolled code is faster.
    """
    before = b.block
    loop = b.append_basic_block("quads")
    after = b.append_basic_block("quads.end")
    b.branch(loop)
    b.position_at_end(loop)
    index = b.phi(llvm.I64)
    values = [b.phi(value.type) for value in initial]
    updated = body(index, values)
    following = b.add(index, llvm.I64(1))
    branch = b.cbranch(b.icmp_unsigned("<", following, llvm.I64(trips)), loop, after)
    keep = b.module.add_metadata([ir.MetaDataString(b.module, "llvm.loop.unroll.disable")])
    identity = ir.MDValue(b.module, [], name=str(len(b.module.metadata)))
    identity.operands = (identity, keep)
    branch.set_metadata("llvm.loop", identity)
    for phi, first, later in zip([index, *values], [llvm.I64(0), *initial], [following, *updated], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, b.block)
    b.position_at_end(after)
    return updated
