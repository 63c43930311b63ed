"""SIMD values for numba: vectors of 16 lanes and tiles of them, as ordinary values inside kernels.

The vocabulary that kernels are written in; its loads and stores are in memory.py and number_formats.py. A `Vector` is
16 lanes of f32 or i32; a `Tile` is an array of vectors, one for each of some tokens or of some panels. Arithmetic is
lanewise; a vector, or a tile of one, combines with every vector of a tile.

Invariant: this is IEEE arithmetic in an order fixed by the kernel, the same on every processor, and LLVM fits it to the
registers at hand. The one operation that each processor does its own way is in dots.py.
"""

import itertools
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

from worker.kernels import llvm

LANES = 16

_ELEMENTS = {"f32": llvm.FLOAT, "i32": llvm.I32}


class Vector(types.Type):  # type: ignore[misc]
    """16 lanes of one element type."""

    def __init__(self, element: str) -> None:
        self.element = element
        self.llvm = ir.VectorType(_ELEMENTS[element], LANES)
        super().__init__(name=f"{element}x{LANES}")


class Tile(types.Type):  # type: ignore[misc]
    """`count` vectors, of as many tokens or panels."""

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


@intrinsic(prefer_literal=True)
def zeros(typing: Any, count: Any) -> Any:
    """Tile(f32, count) of zeros."""
    result = Tile(F32, count.literal_value)
    return result(count), lambda context, b, signature, arguments: ir.Constant(result.llvm, None)


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """All 16 lanes hold `value` (f32)."""
    return F32(types.float32), lambda context, b, signature, arguments: llvm.splat(b, arguments[0], LANES)


@intrinsic(prefer_literal=True)
def splat_i32(typing: Any, value: Any) -> Any:
    """All 16 lanes hold the constant `value` (i32)."""
    number = value.literal_value
    return I32(value), lambda context, b, signature, arguments: llvm.constant(I32.llvm, number)


@intrinsic(prefer_literal=True)
def pick(typing: Any, tile: Any, index: Any) -> Any:
    """Vector number `index` (a constant) of a tile."""
    position = index.literal_value
    return tile.vector(tile, index), lambda context, b, signature, arguments: b.extract_value(arguments[0], position)


@intrinsic(prefer_literal=True)
def repeated(typing: Any, tile: Any, count: Any) -> Any:
    """Each vector of a tile `count` times (a constant), before the next one: to combine each with all of another."""
    result = Tile(tile.vector, tile.count * count.literal_value)

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        vectors = [b.extract_value(arguments[0], index) for index in range(tile.count)]
        return cgutils.pack_array(b, [vector for vector in vectors for _ in range(count.literal_value)])

    return result(tile, count), lower


def _by_vectors(operation: Callable[..., Any], result: Vector | None = None) -> Callable[..., Any]:
    """From types of operands to (signature, lowering) that applies `operation` to every vector; None for other types.

    Plain vectors and tiles of one serve every vector of a tile.
    """

    def typed(*operands: Any) -> Any:
        if not all(isinstance(o, Vector | Tile) for o in operands):
            return None
        tile = max((o for o in operands if isinstance(o, Tile)), key=lambda o: o.count, default=None)
        first = operands[0] if tile is None else tile
        vector = result or (first.vector if tile is not None else first)
        returned = vector if tile is None else Tile(vector, tile.count)

        def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            if tile is None:
                return operation(b, *arguments)
            return cgutils.pack_array(b, [
                operation(b, *[b.extract_value(a, index % o.count) if isinstance(o, Tile) else a
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


def _add(b: Any, x: Any, y: Any) -> Any:
    return b.fadd(x, y) if _is_float(x) else b.add(x, y)


def _subtract(b: Any, x: Any, y: Any) -> Any:
    return b.fsub(x, y) if _is_float(x) else b.sub(x, y)


def _multiply(b: Any, x: Any, y: Any) -> Any:
    return b.fmul(x, y) if _is_float(x) else b.mul(x, y)


def _fma(b: Any, x: Any, y: Any, z: Any) -> Any:
    return llvm.call(b, f"llvm.fma.v{LANES}f32", F32.llvm, x, y, z)


def _maximum(b: Any, x: Any, y: Any) -> Any:
    """The larger, and NaN if either is."""
    return llvm.call(b, f"llvm.maximum.v{x.type.count}f32", x.type, x, y)


def _minimum(b: Any, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered("<", x, y), x, y)


add = _lanewise("add", 2, _add)
maximum = _lanewise("maximum", 2, _maximum)
minimum = _lanewise("minimum", 2, _minimum)
fma = _lanewise("fma", 3, _fma)
to_float = _lanewise("to_float", 1, lambda b, x: b.sitofp(x, F32.llvm), result=F32)
absolute = _lanewise("absolute", 1, lambda b, x: llvm.call(b, f"llvm.fabs.v{LANES}f32", F32.llvm, x))
round_even = _lanewise(
    "round_even", 1,
    lambda b, x: b.fptosi(llvm.call(b, f"llvm.rint.v{LANES}f32", F32.llvm, x), I32.llvm), result=I32,
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
        return b.shl(arguments[0], llvm.constant(I32.llvm, distance))

    return I32(I32, bits), lower


@intrinsic
def bits_to_float(typing: Any, value: Any) -> Any:
    """Reads the bits of i32 lanes as f32."""
    return F32(I32), lambda context, b, signature, arguments: b.bitcast(arguments[0], F32.llvm)


@intrinsic
def select_below(typing: Any, limit: Any, inside: Any, outside: Any) -> Any:
    """Lane i is `inside` where i < limit (i32), else `outside`."""

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        lanes = ir.Constant(I32.llvm, list(range(LANES)))
        return b.select(b.icmp_signed("<", lanes, llvm.splat(b, arguments[0], LANES)), arguments[1], arguments[2])

    return F32(types.int32, F32, F32), lower


@intrinsic
def where_below(typing: Any, x: Any, limit: Any, low: Any, high: Any) -> Any:
    """Lane by lane: `low` where x < limit, else `high`; all f32."""

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return b.select(b.fcmp_ordered("<", arguments[0], arguments[1]), arguments[2], arguments[3])

    return F32(F32, F32, F32, F32), lower


def _reduction(combine: Callable[[Any, Any, Any], Any], result: Any, argument: Vector) -> Any:
    """Combines the 16 lanes pairwise, halves first: one fixed order."""

    @intrinsic
    def reduce(typing: Any, value: Any) -> Any:
        def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            vector, width = arguments[0], LANES
            while width > 1:
                width //= 2
                vector = combine(b, llvm.slice(b, vector, 0, width), llvm.slice(b, vector, width, width))
            return b.extract_element(vector, llvm.I32(0))

        return result(argument), lower

    return reduce


sum_lanes = _reduction(lambda b, x, y: b.fadd(x, y), types.float32, F32)
max_lanes = _reduction(_maximum, types.float32, F32)
sum_lanes_i32 = _reduction(lambda b, x, y: b.add(x, y), types.int32, I32)
