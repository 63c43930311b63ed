"""The integer product of a block of codes with a tile of activations: what each processor does its own way.

matmul.py calls `block_dot`. Activations are int8, [quad][token][4]: the four bytes of a quad and token are broadcast to
all lanes and meet a quad of 16 rows. Invariant: the result is the exact integer in every lowering, so the instruction
set changes the speed and never a bit.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from worker.kernels.codes import CODES, QUAD_BYTES, QUADS, Code, Plane
from worker.kernels.simd import (
    _I8,
    _I16,
    _I32,
    _I64,
    I32,
    INSTRUCTION_SET,
    LANES,
    Tile,
    _call,
    _constant,
    _join,
    _load,
    _offset,
    _splat,
)

_MOST_ACTIVATION = 127


@dataclass(frozen=True)
class Operand:
    """What a product is of: `quads` of the block at `panel`, and the block's activations of `count` tokens at `x`."""

    code: Code
    quads: range
    count: int
    panel: Any
    x: Any

    def activation(self, b: Any, quad: int | Any, token: int, lanes: int) -> Any:
        """The four bytes of a quad and token in each of `lanes` lanes of i32."""
        at = _offset(b, _at(b, self.x, quad, 4 * self.count), 4 * token)
        return _splat(b, _load(b, at, _I32, 4), lanes)

    def packed(self, b: Any, plane: Plane, quad: int, part: int, width: int) -> Any:
        """The bytes part * width and on of the vector that has a quad of a plane: <width x i8>."""
        at = QUAD_BYTES * (plane.position + quad // plane.quads_per_vector) + part * width
        return _load(b, _offset(b, self.panel, at), ir.VectorType(_I8, width), 1)

    def codes(self, b: Any, quad: int, part: int, width: int) -> Any:
        """Codes of a quad, of the rows in bytes part * width and on: <width x i8>, before any table."""
        return functools.reduce(b.or_, [
            _field(b, self.packed(b, plane, quad, part, width), plane, quad) for plane in self.code.planes
        ])


def _at(b: Any, address: Any, index: int | Any, stride: int) -> Any:
    """address + index * stride; index is a number or a value."""
    return _offset(b, address, index * stride) if isinstance(index, int) else b.add(address, b.mul(index, _I64(stride)))


def _field(b: Any, packed: Any, plane: Plane, quad: int) -> Any:
    """A quad's bits of a plane's vector, moved to their place in the code."""
    return _bits(b, packed, plane.bits, plane.shift(quad), plane.position)


def _bits(b: Any, packed: Any, bits: int, position: int, target: int) -> Any:
    """`bits` of each byte, moved from `position` to `target`."""
    if bits == 8:
        return packed
    words = b.bitcast(packed, ir.VectorType(_I16, packed.type.count // 2))
    distance = position - target
    if distance:
        words = (b.lshr if distance > 0 else b.shl)(words, _constant(words.type, abs(distance)))
    return b.and_(b.bitcast(words, packed.type), _constant(packed.type, ((1 << bits) - 1) << target))


# ---- vpdpbusd: four products a lane, summed to i32 without saturation -------------------------


def _dot_vnni(width: int) -> Callable[[Any, Operand], list[Any]]:
    lanes = width // 32
    lane_vector, parts = ir.VectorType(_I32, lanes), LANES // lanes

    def lower(b: Any, o: Operand) -> list[Any]:
        sums = [[_constant(lane_vector, 0)] * o.count for _ in range(parts)]
        for quad in o.quads:
            weights = [b.bitcast(_look_up_bytes(b, o.code.table, o.codes(b, quad, part, width // 8)), lane_vector)
                       for part in range(parts)]
            for token in range(o.count):
                activation = o.activation(b, quad, token, lanes)
                for part in range(parts):
                    sums[part][token] = _call(b, f"llvm.x86.avx512.vpdpbusd.{width}", lane_vector,
                                              sums[part][token], weights[part], activation)
        return _whole(b, sums)

    return lower


def _whole(b: Any, parts: list[list[Any]]) -> list[Any]:
    """Each token's 16 lanes from what was summed in one part or in two."""
    return parts[0] if len(parts) == 1 else [_join(b, low, high) for low, high in zip(*parts, strict=True)]


_SHUFFLES = {32: "llvm.x86.avx2.pshuf.b", 64: "llvm.x86.avx512.pshuf.b.512"}


def _look_up_bytes(b: Any, table: Sequence[int], codes: Any) -> Any:
    """Replaces codes of 4 bits by what the table has for them; without a table they stay."""
    if not table:
        return codes
    entries = ir.Constant(codes.type, list(table) * (codes.type.count // 16))
    return _call(b, _SHUFFLES[codes.type.count], codes.type, entries, codes)


# ---- vpmaddubsw: two products a word, summed to 16 bits with saturation -----------------------


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
    whole = Digit(lambda b, codes: _look_up_bytes(b, code.table, codes), code.largest, 1)
    if whole.num_quads:
        return [whole]
    if not code.table:
        return [Digit(lambda b, codes: _bits(b, codes, 4, 0, 0), 15, 1),
                Digit(lambda b, codes: _bits(b, codes, 4, 4, 0), 15, 16)]
    return [Digit(lambda b, codes: _look_up_bytes(b, [value & 15 for value in code.table], codes), 15, 1),
            Digit(lambda b, codes: _look_up_bytes(b, [value >> 4 for value in code.table], codes), 15, 16)]


_WORDS, _LANES8, _BYTES32 = ir.VectorType(_I16, 16), ir.VectorType(_I32, 8), ir.VectorType(_I8, 32)
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


def _dot_avx2(b: Any, o: Operand) -> list[Any]:
    parts: list[list[Any]] = [[None] * o.count, [None] * o.count]
    digits = _digits(o.code)
    dot = _dot_unrolled if o.count == len(digits) == 1 else _dot_in_loops
    for share in _shares(o):
        sums = [dot(b, o, share, digit) for digit in digits]
        places = itertools.product(share.halves, share.tokens)
        for (half, token), *values in zip(places, *sums, strict=True):
            parts[half][token] = functools.reduce(b.add, values)
    return _whole(b, parts)


def _dot_unrolled(b: Any, o: Operand, share: Sums, digit: Digit) -> list[Any]:
    totals = [_constant(_LANES8, 0)] * len(share)
    for first in range(o.quads.start, o.quads.stop, digit.num_quads):
        sums = [_constant(_WORDS, 0)] * len(share)
        for quad in range(first, min(first + digit.num_quads, o.quads.stop)):
            weights = [digit.read(b, o.codes(b, quad, half, 32)) for half in share.halves]
            sums = _added(b, sums, _products(b, weights, [o.activation(b, quad, token, 8) for token in share.tokens]))
        totals = _added(b, totals, _widened(b, sums, digit))
    return totals


def _products(b: Any, weights: list[Any], activations: list[Any]) -> list[Any]:
    """In the order of Sums: of all tokens' first halves, then of their second ones."""
    return [_call(b, "llvm.x86.avx2.pmadd.ub.sw", _WORDS, each, b.bitcast(activation, _BYTES32))
            for each in weights for activation in activations]


def _added(b: Any, first: list[Any], second: list[Any]) -> list[Any]:
    return [b.add(*both) for both in zip(first, second, strict=True)]


def _widened(b: Any, sums: list[Any], digit: Digit) -> list[Any]:
    """Sums of two words each, times the digit's factor."""
    factor = _constant(_WORDS, digit.factor)
    return [_call(b, "llvm.x86.avx2.pmadd.wd", _LANES8, words, factor) for words in sums]


def _dot_in_loops(b: Any, o: Operand, share: Sums, digit: Digit) -> list[Any]:
    """The sums of a loop stay words, and are widened after it, if words can hold those of several trips."""
    in_words = digit.num_quads >= 2 * _TRIP
    distance = min([QUADS, *(plane.quads_per_vector for plane in _carried(o.code))])
    if in_words:
        distance = min(distance, digit.num_quads // _TRIP * _TRIP)
    totals = [_constant(_LANES8, 0)] * len(share)
    for first in range(o.quads.start, o.quads.stop, distance):
        quads = range(first, min(first + distance, o.quads.stop))
        if in_words:
            words = _loop(b, o, share, digit, quads, [_constant(_WORDS, 0)] * len(totals), _add_in_words)
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
        quad = b.add(b.mul(index, _I64(_TRIP)), _I64(quads.start))
        activations = [[o.activation(b, b.add(quad, _I64(place)), token, 8) for token in share.tokens]
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
    return b.bitcast(b.lshr(b.bitcast(packed, _WORDS), _constant(_WORDS, distance)), packed.type)


def _trip_codes(b: Any, o: Operand, first: int, index: Any, place: int, half: int, carried: list[Any]) -> Any:
    """Codes of the quad at a place of trip `index` of the loop that begins at quad `first`."""
    waiting, fields = iter(carried), []
    for plane in o.code.planes:
        if plane.quads_per_vector > _TRIP:
            fields.append(_field(b, next(waiting), plane, place))
            continue
        moved = replace(o, panel=_at(b, o.panel, index, QUAD_BYTES * _TRIP // plane.quads_per_vector))
        fields.append(_field(b, moved.packed(b, plane, first + place, half, 32), plane, place))
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
    index = b.phi(_I64)
    values = [b.phi(value.type) for value in initial]
    updated = body(index, values)
    following = b.add(index, _I64(1))
    branch = b.cbranch(b.icmp_unsigned("<", following, _I64(trips)), loop, after)
    keep = b.module.add_metadata([ir.MetaDataString(b.module, "llvm.loop.unroll.disable")])
    identity = ir.MDValue(b.module, [], name=str(len(b.module.metadata)))
    identity.operands = (identity, keep)
    branch.set_metadata("llvm.loop", identity)
    for phi, first, later in zip([index, *values], [_I64(0), *initial], [following, *updated], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, b.block)
    b.position_at_end(after)
    return updated


# ---- any processor ----------------------------------------------------------------------------


def _dot_portable(b: Any, o: Operand) -> list[Any]:
    """Shifts, multiplications and additions in 32 bits, left to LLVM."""
    sums = [_constant(I32.llvm, 0)] * o.count
    for quad in o.quads:
        lanes = b.bitcast(_select_bytes(b, o.code.table, o.codes(b, quad, 0, 64)), I32.llvm)
        for byte in range(4):
            weights = b.and_(b.lshr(lanes, _constant(I32.llvm, 8 * byte)), _constant(I32.llvm, 255))
            for token in range(o.count):
                value = _load(b, _offset(b, o.x, 4 * (quad * o.count + token) + byte), _I8, 1)
                sums[token] = b.add(sums[token], b.mul(weights, _splat(b, b.sext(value, _I32), LANES)))
    return sums


def _select_bytes(b: Any, table: Sequence[int], codes: Any) -> Any:
    """As _look_up_bytes, by halving the table: each bit of the code chooses between neighbours."""
    if not table:
        return codes
    values = [_constant(codes.type, value) for value in table]
    for bit in range(4):
        odd = b.icmp_unsigned("!=", b.and_(codes, _constant(codes.type, 1 << bit)), _constant(codes.type, 0))
        values = [b.select(odd, high, low) for low, high in zip(values[::2], values[1::2], strict=True)]
    return values[0]


LOWERINGS: dict[str, Callable[[Any, Operand], list[Any]]] = {
    "avx512-vnni": _dot_vnni(512),
    "avx-vnni": _dot_vnni(256),
    "avx2": _dot_avx2,
    "portable": _dot_portable,
}


@intrinsic(prefer_literal=True)
def block_dot(typing: Any, code: Any, first: Any, last: Any, count: Any, panel: Any, x: Any) -> Any:
    """Exact integer products of quads first .. last - 1 of a block with `count` tokens: Tile(i32, count) of 16 rows.

    code, first, last, count: constants, the first a name of CODES; panel: address of the block's codes; x: address of
    the block's activations, int8 [8 quads][count][4].
    """
    quads = range(first.literal_value, last.literal_value)
    result = Tile(I32, count.literal_value)

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        *_, panel, x = arguments
        return cgutils.pack_array(
            b, LOWERINGS[INSTRUCTION_SET](b, Operand(CODES[code.literal_value], quads, result.count, panel, x))
        )

    return result(code, first, last, count, types.intp, types.intp), lower
