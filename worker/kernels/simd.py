"""SIMD values for numba: vectors of 16 lanes and tiles of them, as ordinary values inside kernels.

This module alone knows the instruction set. A `Vector` is 16 lanes of f32 or i32; a `Tile` is an array of vectors, one
per token of a small group. Arithmetic is lanewise; a vector combines with every vector of a tile. Addresses are plain
integers, so that no kernel carries array structs or reference counts.

What is here is IEEE arithmetic in an order fixed by the kernel, the same on every processor; the operation that each
does its own way is in dots.py.
"""

import itertools
import operator
import os
from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

from worker.errors import UnsupportedModel

LANES = 16

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_FLOAT, _HALF = ir.FloatType(), ir.HalfType()
_ELEMENTS = {"f32": _FLOAT, "i32": _I32}


class Vector(types.Type):  # type: ignore[misc]
    """16 lanes of one element type."""

    def __init__(self, element: str) -> None:
        self.element = element
        self.llvm = ir.VectorType(_ELEMENTS[element], LANES)
        super().__init__(name=f"{element}x{LANES}")


class Tile(types.Type):  # type: ignore[misc]
    """`count` vectors, one per token."""

    def __init__(self, vector: Vector, count: int) -> None:
        self.vector, self.count = vector, count
        self.llvm = ir.ArrayType(vector.llvm, count)
        super().__init__(name=f"Tile({vector.name}, {count})")


@register_model(Vector)
@register_model(Tile)
class _RegisterModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, frontend: Any) -> None:
        super().__init__(manager, frontend, frontend.llvm)


F32, I32 = Vector("f32"), Vector("i32")


# ---- the instruction set ----------------------------------------------------------------------

# name -> (processor features it needs, sizes of token tiles: the largest uses all registers)
INSTRUCTION_SETS: dict[str, tuple[frozenset[str], tuple[int, int, int, int]]] = {
    "avx512-vnni": (frozenset({"avx512f", "avx512bw", "avx512vl", "avx512vnni"}), (12, 4, 2, 1)),
    "avx-vnni": (frozenset({"avx2", "fma", "f16c", "avxvnni"}), (6, 4, 2, 1)),
    "avx2": (frozenset({"avx2", "fma", "f16c"}), (8, 4, 2, 1)),
    "portable": (frozenset(), (6, 4, 2, 1)),
}


def choose_instruction_set(wanted: str, features: frozenset[str]) -> str:
    """The first set of the table that the processor has, or the wanted one if it has it.

    Raises UnsupportedModel if `wanted` is unknown or not to be had here.
    """
    usable = [name for name, (needs, _) in INSTRUCTION_SETS.items() if needs <= features]
    if not wanted:
        return usable[0]
    if wanted not in usable:
        raise UnsupportedModel(f"CORRAL_ISA={wanted!r} cannot be used on this processor; usable: {', '.join(usable)}")
    return wanted


_features = frozenset(name for name, on in llvmlite.binding.get_host_cpu_features().items() if on)
INSTRUCTION_SET = choose_instruction_set(os.environ.get("CORRAL_ISA", ""), _features)
TILE_SIZES = INSTRUCTION_SETS[INSTRUCTION_SET][1]

# Tokens whose products with numbers, f32 sums of 16 rows, stay in registers.
NUMBER_TILE = 12 if INSTRUCTION_SET == "avx512-vnni" else 4


# ---- building blocks of the lowerings ---------------------------------------------------------


def _pointer(b: Any, address: Any, element: Any) -> Any:
    return b.inttoptr(address, element.as_pointer())


def _load(b: Any, address: Any, element: Any, align: int) -> Any:
    instruction = b.load(_pointer(b, address, element))
    instruction.align = align
    return instruction


def _splat(b: Any, value: Any, lanes: int) -> Any:
    vector = ir.VectorType(value.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    single = b.insert_element(undefined, value, _I32(0))
    return b.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _offset(b: Any, address: Any, distance: int) -> Any:
    return b.add(address, _I64(distance))


def _constant(vector: Any, value: float) -> Any:
    return ir.Constant(vector, [value] * vector.count)


def _call(b: Any, name: str, result: Any, *arguments: Any) -> Any:
    signature = ir.FunctionType(result, [a.type for a in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, signature, name), arguments)


def _slice(b: Any, vector: Any, first: int, count: int) -> Any:
    mask = ir.Constant(ir.VectorType(_I32, count), list(range(first, first + count)))
    return b.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def _join(b: Any, low: Any, high: Any) -> Any:
    count = low.type.count * 2
    return b.shuffle_vector(low, high, ir.Constant(ir.VectorType(_I32, count), list(range(count))))


def _fma(b: Any, x: Any, y: Any, z: Any) -> Any:
    return _call(b, f"llvm.fma.v{LANES}f32", F32.llvm, x, y, z)


# ---- values -----------------------------------------------------------------------------------


@intrinsic(prefer_literal=True)
def zeros(typing: Any, count: Any) -> Any:
    """Tile(f32, count) of zeros."""
    result = Tile(F32, count.literal_value)
    return result(count), lambda context, b, signature, arguments: ir.Constant(result.llvm, None)


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """All 16 lanes hold `value` (f32)."""
    return F32(types.float32), lambda context, b, signature, arguments: _splat(b, arguments[0], LANES)


@intrinsic
def load(typing: Any, address: Any) -> Any:
    """16 f32 at an address."""
    return F32(types.intp), lambda context, b, signature, arguments: _load(b, arguments[0], F32.llvm, 4)


def _widen_exponents(b: Any, bytes_: Any) -> Any:
    """2 to the power of (byte - 128). What the second shift makes is the larger one for the two that are denormal."""
    exponents = b.zext(bytes_, I32.llvm)
    normal = b.shl(b.sub(exponents, _constant(I32.llvm, 1)), _constant(I32.llvm, 23))
    denormal = b.shl(b.add(exponents, _constant(I32.llvm, 1)), _constant(I32.llvm, 21))
    return b.bitcast(b.select(b.icmp_signed(">", normal, denormal), normal, denormal), F32.llvm)


def _widen_bf16(b: Any, words: Any) -> Any:
    return b.bitcast(b.shl(b.zext(words, I32.llvm), _constant(I32.llvm, 16)), F32.llvm)


def _narrow_bf16(b: Any, numbers: Any) -> Any:
    """To nearest even; a NaN keeps its upper half, and a bit that keeps it one."""
    bits = b.bitcast(numbers, I32.llvm)
    upper = b.lshr(bits, _constant(I32.llvm, 16))
    odd = b.and_(upper, _constant(I32.llvm, 1))
    rounded = b.lshr(b.add(bits, b.add(odd, _constant(I32.llvm, 0x7FFF))), _constant(I32.llvm, 16))
    kept = b.select(b.fcmp_unordered("uno", numbers, numbers), b.or_(upper, _constant(I32.llvm, 0x40)), rounded)
    return b.trunc(kept, ir.VectorType(_I16, LANES))


def _widen_nibbles(shift: int) -> Callable[[Any, Any], Any]:
    """4 bits of each byte, less 8."""

    def widen(b: Any, bytes_: Any) -> Any:
        nibbles = b.and_(b.lshr(bytes_, _constant(bytes_.type, shift)), _constant(bytes_.type, 15))
        return b.sitofp(b.sub(b.zext(nibbles, I32.llvm), _constant(I32.llvm, 8)), F32.llvm)

    return widen


# Number formats in memory: element as stored, and 16 of them as f32.
_NUMBERS: dict[str, tuple[Any, Callable[[Any, Any], Any]]] = {
    "F32": (_FLOAT, lambda b, numbers: numbers),
    "F16": (_HALF, lambda b, numbers: b.fpext(numbers, F32.llvm)),
    "BF16": (_I16, _widen_bf16),
    "I8": (_I8, lambda b, numbers: b.sitofp(numbers, F32.llvm)),
    "E8M0": (_I8, _widen_exponents),
    "LOW4": (_I8, _widen_nibbles(0)),
    "HIGH4": (_I8, _widen_nibbles(4)),
}

# Those that are also written: 16 f32 as stored, rounded to nearest even.
_NARROWED: dict[str, Callable[[Any, Any], Any]] = {
    "F32": lambda b, numbers: numbers,
    "F16": lambda b, numbers: b.fptrunc(numbers, ir.VectorType(_HALF, LANES)),
    "BF16": _narrow_bf16,
}


@intrinsic(prefer_literal=True)
def load_numbers(typing: Any, name: Any, address: Any) -> Any:
    """16 numbers of the format with this name (a constant), as f32."""
    element, widen = _NUMBERS[name.literal_value]

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return widen(b, _load(b, arguments[1], ir.VectorType(element, LANES), 1))

    return F32(name, types.intp), lower


@intrinsic(prefer_literal=True)
def load_number(typing: Any, name: Any, address: Any) -> Any:
    """One number of the format with this name (a constant), as f32."""
    element, widen = _NUMBERS[name.literal_value]

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        number = _splat(b, _load(b, arguments[1], element, 1), LANES)
        return b.extract_element(widen(b, number), _I32(0))

    return types.float32(name, types.intp), lower


@intrinsic(prefer_literal=True)
def store_numbers(typing: Any, name: Any, address: Any, value: Any) -> Any:
    """Writes 16 f32 as numbers of the format with this name (a constant)."""
    narrow = _NARROWED[name.literal_value]

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        numbers = narrow(b, arguments[2])
        b.store(numbers, _pointer(b, arguments[1], numbers.type)).align = 1
        return context.get_dummy_value()

    return types.void(name, types.intp, F32), lower


def _scatter(b: Any, address: Any, stride: Any, values: Any) -> None:
    for lane in range(LANES):
        target = _pointer(b, b.add(address, b.mul(stride, _I64(lane))), values.type.element)
        b.store(b.extract_element(values, _I32(lane)), target).align = 1


@intrinsic(prefer_literal=True)
def scatter_numbers(typing: Any, name: Any, address: Any, stride: Any, value: Any) -> Any:
    """Writes 16 f32 as numbers of the format with this name (a constant), `stride` bytes apart."""
    narrow = _NARROWED[name.literal_value]

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        _, address, stride, numbers = arguments
        _scatter(b, address, stride, narrow(b, numbers))
        return context.get_dummy_value()

    return types.void(name, types.intp, types.intp, F32), lower


@intrinsic
def scatter_bytes(typing: Any, address: Any, stride: Any, value: Any) -> Any:
    """Writes the lowest byte of 16 i32 lanes, `stride` bytes apart."""

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        address, stride, lanes = arguments
        _scatter(b, address, stride, b.trunc(lanes, ir.VectorType(_I8, LANES)))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, I32), lower


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Asks for the cache line at an address, which need not be readable."""

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        pointer = b.inttoptr(arguments[0], _I8.as_pointer())
        function = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        b.call(cgutils.get_or_insert_function(b.module, function, "llvm.prefetch.p0"), [
            pointer, _I32(0), _I32(3), _I32(1)  # to read, soon again, data
        ])
        return context.get_dummy_value()

    return types.void(types.intp), lower


def _loader(element: Any, read: Callable[[Any, Any], Any], result: Any) -> Any:
    @intrinsic
    def scalar(typing: Any, address: Any) -> Any:
        def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            return read(b, _load(b, arguments[0], element, 1))

        return result(types.intp), lower

    return scalar


load_scalar = _loader(_FLOAT, lambda b, value: value, types.float32)
load_scalar_u8 = _loader(_I8, lambda b, value: b.zext(value, _I32), types.int32)
load_scalar_i32 = _loader(_I32, lambda b, value: value, types.int32)
load_scalar_i64 = _loader(_I64, lambda b, value: value, types.int64)


@intrinsic
def store(typing: Any, address: Any, value: Any) -> Any:
    """Writes 16 f32."""

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        b.store(arguments[1], _pointer(b, arguments[0], F32.llvm)).align = 4
        return context.get_dummy_value()

    return types.void(types.intp, F32), lower


@intrinsic
def store_i8(typing: Any, address: Any, value: Any) -> Any:
    """Writes the lowest byte of 16 i32 lanes."""

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        narrow = b.trunc(arguments[1], ir.VectorType(_I8, LANES))
        b.store(narrow, _pointer(b, arguments[0], narrow.type)).align = 1
        return context.get_dummy_value()

    return types.void(types.intp, I32), lower


def _storer(element: Any, argument: Any, convert: Callable[[Any, Any], Any]) -> Any:
    @intrinsic
    def scalar(typing: Any, address: Any, value: Any) -> Any:
        def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            b.store(convert(b, arguments[1]), _pointer(b, arguments[0], element)).align = 1
            return context.get_dummy_value()

        return types.void(types.intp, argument), lower

    return scalar


store_scalar = _storer(_FLOAT, types.float32, lambda b, value: value)
store_scalar_f16 = _storer(_HALF, types.float32, lambda b, value: b.fptrunc(value, _HALF))
store_scalar_i32 = _storer(_I32, types.int32, lambda b, value: value)
store_scalar_i64 = _storer(_I64, types.int64, lambda b, value: value)
store_scalar_u8 = _storer(_I8, types.int32, lambda b, value: b.trunc(value, _I8))


@intrinsic(prefer_literal=True)
def splats(typing: Any, address: Any, count: Any) -> Any:
    """`count` consecutive f32, each broadcast to a vector: Tile(f32, count)."""
    result = Tile(F32, count.literal_value)

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return cgutils.pack_array(b, [
            _splat(b, _load(b, _offset(b, arguments[0], 4 * token), _FLOAT, 4), LANES) for token in range(result.count)
        ])

    return result(types.intp, count), lower


@intrinsic(prefer_literal=True)
def splats_i32(typing: Any, address: Any, count: Any) -> Any:
    """`count` consecutive i32, each broadcast to a vector: Tile(i32, count)."""
    result = Tile(I32, count.literal_value)

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return cgutils.pack_array(b, [
            _splat(b, _load(b, _offset(b, arguments[0], 4 * token), _I32, 4), LANES) for token in range(result.count)
        ])

    return result(types.intp, count), lower


@intrinsic(prefer_literal=True)
def splats_strided(typing: Any, address: Any, stride: Any, count: Any) -> Any:
    """`count` f32 at distances of `stride` bytes, each broadcast to a vector: Tile(f32, count)."""
    result = Tile(F32, count.literal_value)

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        address, distance, _ = arguments
        return cgutils.pack_array(b, [
            _splat(b, _load(b, b.add(address, b.mul(distance, _I64(token))), _FLOAT, 4), LANES)
            for token in range(result.count)
        ])

    return result(types.intp, types.intp, count), lower


@intrinsic
def store_rows(typing: Any, address: Any, stride: Any, tile: Any) -> Any:
    """Writes vector t of a tile at address + t * stride."""

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        address, distance, values = arguments
        for token in range(tile.count):
            target = b.add(address, b.mul(distance, _I64(token)))
            b.store(b.extract_value(values, token), _pointer(b, target, F32.llvm)).align = 4
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, tile), lower


@intrinsic(prefer_literal=True)
def load_rows(typing: Any, address: Any, stride: Any, count: Any) -> Any:
    """Reads `count` vectors at address + t * stride: Tile(f32, count)."""
    result = Tile(F32, count.literal_value)

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        address, distance, _ = arguments
        return cgutils.pack_array(b, [
            _load(b, b.add(address, b.mul(distance, _I64(token))), F32.llvm, 4) for token in range(result.count)
        ])

    return result(types.intp, types.intp, count), lower


@intrinsic(prefer_literal=True)
def pick(typing: Any, tile: Any, index: Any) -> Any:
    """Vector number `index` (a constant) of a tile."""
    position = index.literal_value
    return tile.vector(tile, index), lambda context, b, signature, arguments: b.extract_value(arguments[0], position)


# ---- lanewise arithmetic on vectors and tiles -------------------------------------------------


def _by_vectors(operation: Callable[..., Any], result: Vector | None = None) -> Callable[..., Any]:
    """From types of operands to (signature, lowering) that applies `operation` to every vector; None for other types.

    Plain vectors serve every vector of a tile.
    """

    def typed(*operands: Any) -> Any:
        tile = next((o for o in operands if isinstance(o, Tile)), None)
        if not all(isinstance(o, Vector | Tile) for o in operands):
            return None
        first = operands[0] if tile is None else tile
        vector = result or (first.vector if tile is not None else first)
        returned = vector if tile is None else Tile(vector, tile.count)

        def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            if tile is None:
                return operation(b, *arguments)
            return cgutils.pack_array(b, [
                operation(b, *[b.extract_value(a, index) if isinstance(o, Tile) else a
                               for a, o in zip(arguments, operands, strict=True)])
                for index in range(tile.count)
            ])

        return returned(*operands), lower

    return typed


def _lanewise(name: str, arity: int, operation: Callable[..., Any], result: Vector | None = None) -> Any:
    """An intrinsic of vectors and tiles."""
    typed = _by_vectors(operation, result)
    signatures = {
        1: lambda typing, x: typed(x),
        2: lambda typing, x, y: typed(x, y),
        3: lambda typing, x, y, z: typed(x, y, z),
    }
    function = signatures[arity]
    function.__name__ = name
    return intrinsic(function)


def _is_float(value: Any) -> bool:
    return isinstance(value.type.element, ir.FloatType)


def _maximum(b: Any, x: Any, y: Any) -> Any:
    """The larger, and NaN if either is."""
    return _call(b, f"llvm.maximum.v{x.type.count}f32", x.type, x, y)


def _minimum(b: Any, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered("<", x, y), x, y)


def _add(b: Any, x: Any, y: Any) -> Any:
    return b.fadd(x, y) if _is_float(x) else b.add(x, y)


def _subtract(b: Any, x: Any, y: Any) -> Any:
    return b.fsub(x, y) if _is_float(x) else b.sub(x, y)


def _multiply(b: Any, x: Any, y: Any) -> Any:
    return b.fmul(x, y) if _is_float(x) else b.mul(x, y)


add = _lanewise("add", 2, _add)
maximum = _lanewise("maximum", 2, _maximum)
minimum = _lanewise("minimum", 2, _minimum)
fma = _lanewise("fma", 3, _fma)
to_float = _lanewise("to_float", 1, lambda b, x: b.sitofp(x, F32.llvm), result=F32)
absolute = _lanewise("absolute", 1, lambda b, x: _call(b, f"llvm.fabs.v{LANES}f32", F32.llvm, x))
round_even = _lanewise(
    "round_even", 1,
    lambda b, x: b.fptosi(_call(b, f"llvm.rint.v{LANES}f32", F32.llvm, x), I32.llvm), result=I32,
)


def _operator(symbol: Any, operation: Callable[..., Any]) -> None:
    """Gives an operator to vectors and tiles, without a function to compile for each pair of types."""
    typed = _by_vectors(operation)

    @infer_global(symbol)
    class Typing(AbstractTemplate):  # type: ignore[misc]
        def generic(self, operands: Any, keywords: Any) -> Any:
            found = typed(*operands)
            return found and found[0]

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return typed(*signature.args)[1](context, b, signature, arguments)

    for kinds in itertools.product((Vector, Tile), repeat=2):
        lower_builtin(symbol, *kinds)(lower)


_operator(operator.add, _add)
_operator(operator.sub, _subtract)
_operator(operator.mul, _multiply)
_operator(operator.truediv, lambda b, x, y: b.fdiv(x, y))


@intrinsic(prefer_literal=True)
def shift_left(typing: Any, value: Any, bits: Any) -> Any:
    """i32 lanes shifted left by a constant."""
    distance = bits.literal_value

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return b.shl(arguments[0], _constant(I32.llvm, distance))

    return I32(I32, bits), lower


def _reduction(combine: Callable[[Any, Any, Any], Any], element: Any, result: Any, argument: Vector) -> Any:
    """Combines the 16 lanes pairwise, halves first: one fixed order."""

    @intrinsic
    def reduce(typing: Any, value: Any) -> Any:
        def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            vector, width = arguments[0], LANES
            while width > 1:
                width //= 2
                vector = combine(b, _slice(b, vector, 0, width), _slice(b, vector, width, width))
            return b.extract_element(vector, _I32(0))

        return result(argument), lower

    return reduce


sum_lanes = _reduction(lambda b, x, y: b.fadd(x, y), _FLOAT, types.float32, F32)
max_lanes = _reduction(_maximum, _FLOAT, types.float32, F32)
sum_lanes_i32 = _reduction(lambda b, x, y: b.add(x, y), _I32, types.int32, I32)


@intrinsic
def select_below(typing: Any, limit: Any, inside: Any, outside: Any) -> Any:
    """Lane i is `inside` where i < limit (i32), else `outside`."""

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        lanes = ir.Constant(I32.llvm, list(range(LANES)))
        return b.select(b.icmp_signed("<", lanes, _splat(b, arguments[0], LANES)), arguments[1], arguments[2])

    return F32(types.int32, F32, F32), lower


@intrinsic
def bits_to_float(typing: Any, value: Any) -> Any:
    """Reads the bits of i32 lanes as f32."""
    return F32(I32), lambda context, b, signature, arguments: b.bitcast(arguments[0], F32.llvm)


@intrinsic(prefer_literal=True)
def splat_i32(typing: Any, value: Any) -> Any:
    """All 16 lanes hold the constant `value` (i32)."""
    number = value.literal_value
    return I32(value), lambda context, b, signature, arguments: _constant(I32.llvm, number)


@intrinsic
def store_quads(typing: Any, address: Any, stride: Any, value: Any) -> Any:
    """Writes 16 i32 lanes, which must be in range, as int8: four at address, four at address + stride, and so on."""

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        address, distance, lanes = arguments
        quads = b.bitcast(b.trunc(lanes, ir.VectorType(_I8, LANES)), ir.VectorType(_I32, 4))
        for quad in range(4):
            target = b.add(address, b.mul(distance, _I64(quad)))
            b.store(b.extract_element(quads, _I32(quad)), _pointer(b, target, _I32)).align = 1
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, I32), lower


@intrinsic
def where_below(typing: Any, x: Any, limit: Any, low: Any, high: Any) -> Any:
    """Lane by lane: `low` where x < limit, else `high`; all f32."""

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return b.select(b.fcmp_ordered("<", arguments[0], arguments[1]), arguments[2], arguments[3])

    return F32(F32, F32, F32, F32), lower
