"""vpmaddubsw: two products a word, summed to 16 bits with saturation, which sums here never reach."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from llvmlite import ir

from worker.kernels import llvm
from worker.kernels.codes import QUAD_BYTES, QUADS, Code, Plane
from worker.kernels.lowerings.operand import Operand, take_bits, take_field
from worker.kernels.lowerings.x86 import look_up, whole

_MOST_ACTIVATION = 127


@dataclass(frozen=True)
class Digit:
    """A part of the codes' values that is small enough for 16-bit sums: value = sum of digit * factor."""

    read: Callable[[Any, Any], Any]  # codes -> digits
    largest: int
    factor: int

    @property
    def num_quads(self) -> int:
        """Quads whose products, two of which share a word, can be summed before a word may overflow."""
        return (2**15 - 1) // (2 * _MOST_ACTIVATION * self.largest)


def _digits(code: Code) -> list[Digit]:
    single = Digit(lambda b, codes: look_up(b, code.table, codes), code.largest, 1)
    if single.num_quads:
        return [single]
    if not code.table:
        return [Digit(lambda b, codes: take_bits(b, codes, 4, 0, 0), 15, 1),
                Digit(lambda b, codes: take_bits(b, codes, 4, 4, 0), 15, 16)]
    return [Digit(lambda b, codes: look_up(b, [value & 15 for value in code.table], codes), 15, 1),
            Digit(lambda b, codes: look_up(b, [value >> 4 for value in code.table], codes), 15, 16)]


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
    if o.count > 2 and (len(o.code.planes) > 1 or o.code.table):
        return [Sums(range(half, half + 1), range(o.count)) for half in range(2)]
    return [Sums(range(2), range(first, min(first + 4, o.count))) for first in range(0, o.count, 4)]


def dot(b: Any, o: Operand) -> list[Any]:
    """The lowering of block_dot."""
    digits = _digits(o.code)
    if o.count == 1 and len(digits) > 1:
        return whole(b, [[half] for half in _dot_of_words(b, o)])
    parts: list[list[Any]] = [[None] * o.count, [None] * o.count]
    sums_of = _dot_unrolled if o.count == len(digits) == 1 else _dot_in_loops
    for share in _shares(o):
        sums = [sums_of(b, o, share, digit) for digit in digits]
        places = itertools.product(share.halves, share.tokens)
        for (half, token), *values in zip(places, *sums, strict=True):
            parts[half][token] = functools.reduce(b.add, values)
    return whole(b, parts)


def _dot_of_words(b: Any, o: Operand) -> list[Any]:
    """One token: even and odd bytes as words, whose products need no digits. By half of the rows.

    Among several tokens that would take as many instructions for each as digits do, and words of activations besides.
    """
    totals = [llvm.constant(_LANES8, 0)] * 2
    eight, low = llvm.constant(_WORDS, 8), llvm.constant(_WORDS, 255)
    for quad in o.quads:
        activation = b.bitcast(o.activation(b, quad, 0, 8), _WORDS)
        even, odd = b.ashr(b.shl(activation, eight), eight), b.ashr(activation, eight)
        for half in range(2):
            codes = b.bitcast(look_up(b, o.code.table, o.codes(b, quad, half, 32)), _WORDS)
            for weights, factors in ((b.and_(codes, low), even), (b.lshr(codes, eight), odd)):
                products = llvm.call(b, "llvm.x86.avx2.pmadd.wd", _LANES8, weights, factors)
                totals[half] = b.add(totals[half], products)
    return totals


def _dot_unrolled(b: Any, o: Operand, share: Sums, digit: Digit) -> list[Any]:
    totals = [llvm.constant(_LANES8, 0)] * len(share)
    for first in range(o.quads.start, o.quads.stop, digit.num_quads):
        sums = [llvm.constant(_WORDS, 0)] * len(share)
        for quad in range(first, min(first + digit.num_quads, o.quads.stop)):
            weights = [digit.read(b, o.codes(b, quad, half, 32)) for half in share.halves]
            sums = _added(b, sums, _products(b, weights, [o.activation(b, quad, token, 8) for token in share.tokens]))
        totals = _added(b, totals, _widened(b, sums, digit))
    return totals


def _products(b: Any, weights: list[Any], activations: list[Any]) -> list[Any]:
    """In the order of Sums: of all tokens' first halves, then of their second ones."""
    return [llvm.call(b, "llvm.x86.avx2.pmadd.ub.sw", _WORDS, each, b.bitcast(activation, _BYTES32))
            for each in weights for activation in activations]


def _added(b: Any, first: list[Any], second: list[Any]) -> list[Any]:
    return [b.add(*both) for both in zip(first, second, strict=True)]


def _widened(b: Any, sums: list[Any], digit: Digit) -> list[Any]:
    """Sums of two words each, times the digit's factor."""
    factor = llvm.constant(_WORDS, digit.factor)
    return [llvm.call(b, "llvm.x86.avx2.pmadd.wd", _LANES8, words, factor) for words in sums]


def _dot_in_loops(b: Any, o: Operand, share: Sums, digit: Digit) -> list[Any]:
    """The sums of a loop stay words, and are widened after it, if words can hold those of several trips."""
    in_words = digit.num_quads >= 2 * _TRIP
    distance = min([QUADS, *(plane.quads_per_vector for plane in _carried(o.code))])
    if in_words:
        distance = min(distance, digit.num_quads // _TRIP * _TRIP)
    totals = [llvm.constant(_LANES8, 0)] * len(share)
    for first in range(o.quads.start, o.quads.stop, distance):
        quads = range(first, min(first + distance, o.quads.stop))
        if in_words:
            words = _loop(b, o, share, digit, quads, [llvm.constant(_WORDS, 0)] * len(totals), _add_in_words)
            totals = _added(b, totals, _widened(b, words, digit))
        else:
            totals = _loop(b, o, share, digit, quads, totals, _add_in_lanes)
    return totals


def _add_in_words(b: Any, sums: list[Any], weights: list[Any], activations: list[Any], digit: Digit) -> list[Any]:
    for place in range(_TRIP):
        sums = _added(b, sums, _products(b, weights[place], activations[place]))
    return sums


def _add_in_lanes(b: Any, sums: list[Any], weights: list[Any], activations: list[Any], digit: Digit) -> list[Any]:
    words = [_products(b, weights[place], activations[place]) for place in range(_TRIP)]
    return [b.add(total, *_widened(b, [b.add(*both)], digit)) for total, *both in zip(sums, *words, strict=True)]


def _loop(
    b: Any, o: Operand, share: Sums, digit: Digit, quads: range, sums: list[Any], add: Callable[..., list[Any]]
) -> list[Any]:
    """Adds the products of some quads, which share the vectors of planes of 1 and 2 bits: these are carried along."""
    planes = _carried(o.code)

    def trip(index: Any, values: list[Any]) -> list[Any]:
        sums, carried = values[: len(share)], values[len(share) :]
        weights: list[list[Any]] = [[], []]
        for place in range(_TRIP):
            for number, half in enumerate(share.halves):
                narrow = carried[number * len(planes) : (number + 1) * len(planes)]
                codes = _trip_codes(b, o, quads.start, index, place, half, narrow)
                weights[place].append(digit.read(b, codes))
        quad = b.add(b.mul(index, llvm.I64(_TRIP)), llvm.I64(quads.start))
        activations = [[o.activation(b, b.add(quad, llvm.I64(place)), token, 8) for token in share.tokens]
                       for place in range(_TRIP)]
        moved = [_shift_words(b, packed, _TRIP * plane.bits)
                 for packed, plane in zip(carried, planes * len(share.halves), strict=True)]
        return add(b, sums, weights, activations, digit) + moved

    carried = [_shift_words(b, o.packed(b, plane, quads.start, half, 32), plane.shift(quads.start))
               for half in share.halves for plane in planes]
    return _rolled_loop(b, len(quads) // _TRIP, sums + carried, trip)[: len(share)]


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

    Unrolled, LLVM regroups the additions token by token, or digit by digit, and spills the weights, at half the speed:
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
