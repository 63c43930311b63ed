"""Numbers as memory has them, by name of their format: read as f32, and some also written from f32.

Weights that are not quantised, pages of the cache, scales and exponents are read through this table. A new format is a
row: its element, and 16 of them widened to f32.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from worker.kernels import llvm
from worker.kernels.simd import F32, I32, LANES, Tile


def _widen_exponents(b: Any, bytes_: Any) -> Any:
    """2 to the power of (byte - 128). What the second shift makes is the larger one for the two that are denormal."""
    exponents = b.zext(bytes_, I32.llvm)
    normal = b.shl(b.sub(exponents, llvm.constant(I32.llvm, 1)), llvm.constant(I32.llvm, 23))
    denormal = b.shl(b.add(exponents, llvm.constant(I32.llvm, 1)), llvm.constant(I32.llvm, 21))
    return b.bitcast(b.select(b.icmp_signed(">", normal, denormal), normal, denormal), F32.llvm)


def _widen_bf16(b: Any, words: Any) -> Any:
    return b.bitcast(b.shl(b.zext(words, I32.llvm), llvm.constant(I32.llvm, 16)), F32.llvm)


def _narrow_bf16(b: Any, numbers: Any) -> Any:
    """To nearest even; a NaN keeps its upper half, and a bit that keeps it one."""
    bits = b.bitcast(numbers, I32.llvm)
    upper = b.lshr(bits, llvm.constant(I32.llvm, 16))
    odd = b.and_(upper, llvm.constant(I32.llvm, 1))
    rounded = b.lshr(b.add(bits, b.add(odd, llvm.constant(I32.llvm, 0x7FFF))), llvm.constant(I32.llvm, 16))
    kept = b.select(b.fcmp_unordered("uno", numbers, numbers), b.or_(upper, llvm.constant(I32.llvm, 0x40)), rounded)
    return b.trunc(kept, ir.VectorType(llvm.I16, LANES))


def _widen_nibbles(shift: int) -> Callable[[Any, Any], Any]:
    """4 bits of each byte, less 8."""

    def widen(b: Any, bytes_: Any) -> Any:
        nibbles = b.and_(b.lshr(bytes_, llvm.constant(bytes_.type, shift)), llvm.constant(bytes_.type, 15))
        return b.sitofp(b.sub(b.zext(nibbles, I32.llvm), llvm.constant(I32.llvm, 8)), F32.llvm)

    return widen


# Number formats in memory: element as stored, and 16 of them as f32.
_NUMBERS: dict[str, tuple[Any, Callable[[Any, Any], Any]]] = {
    "F32": (llvm.FLOAT, lambda b, numbers: numbers),
    "F16": (llvm.HALF, lambda b, numbers: b.fpext(numbers, F32.llvm)),
    "BF16": (llvm.I16, _widen_bf16),
    "I8": (llvm.I8, lambda b, numbers: b.sitofp(numbers, F32.llvm)),
    "E8M0": (llvm.I8, _widen_exponents),
    "LOW4": (llvm.I8, _widen_nibbles(0)),
    "HIGH4": (llvm.I8, _widen_nibbles(4)),
}

# Those that are also written: 16 f32 as stored, rounded to nearest even.
_NARROWED: dict[str, Callable[[Any, Any], Any]] = {
    "F32": lambda b, numbers: numbers,
    "F16": lambda b, numbers: b.fptrunc(numbers, ir.VectorType(llvm.HALF, LANES)),
    "BF16": _narrow_bf16,
}


@intrinsic(prefer_literal=True)
def load_numbers(typing: Any, name: Any, address: Any) -> Any:
    """16 numbers of the format with this name (a constant), as f32."""
    element, widen = _NUMBERS[name.literal_value]

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return widen(b, llvm.load(b, arguments[1], ir.VectorType(element, LANES), 1))

    return F32(name, types.intp), lower


@intrinsic(prefer_literal=True)
def load_each(typing: Any, name: Any, address: Any, stride: Any, count: Any) -> Any:
    """16 numbers of the format with this name (a constant) at each of `count` addresses, `stride` bytes apart.

    Tile(f32, count).
    """
    element, widen = _NUMBERS[name.literal_value]
    result = Tile(F32, count.literal_value)

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        _, address, distance, _ = arguments
        places = [b.add(address, b.mul(distance, llvm.I64(index))) for index in range(result.count)]
        numbers = ir.VectorType(element, LANES)
        return cgutils.pack_array(b, [widen(b, llvm.load(b, place, numbers, 1)) for place in places])

    return result(name, types.intp, types.intp, count), lower


@intrinsic(prefer_literal=True)
def load_from(typing: Any, name: Any, addresses: Any, distance: Any) -> Any:
    """16 numbers of the format with this name (a constant) `distance` bytes behind each of a tuple of addresses.

    Tile(f32, number of addresses).
    """
    element, widen = _NUMBERS[name.literal_value]

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        _, addresses, distance = arguments
        places = [b.add(address, distance) for address in cgutils.unpack_tuple(b, addresses)]
        numbers = ir.VectorType(element, LANES)
        return cgutils.pack_array(b, [widen(b, llvm.load(b, place, numbers, 1)) for place in places])

    return Tile(F32, addresses.count)(name, addresses, types.intp), lower


@intrinsic(prefer_literal=True)
def load_number(typing: Any, name: Any, address: Any) -> Any:
    """One number of the format with this name (a constant), as f32."""
    element, widen = _NUMBERS[name.literal_value]

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        number = llvm.splat(b, llvm.load(b, arguments[1], element, 1), LANES)
        return b.extract_element(widen(b, number), llvm.I32(0))

    return types.float32(name, types.intp), lower


@intrinsic(prefer_literal=True)
def store_numbers(typing: Any, name: Any, address: Any, value: Any) -> Any:
    """Writes 16 f32 as numbers of the format with this name (a constant)."""
    narrow = _NARROWED[name.literal_value]

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        llvm.store(b, narrow(b, arguments[2]), arguments[1], 1)
        return context.get_dummy_value()

    return types.void(name, types.intp, F32), lower


@intrinsic(prefer_literal=True)
def scatter_numbers(typing: Any, name: Any, address: Any, stride: Any, value: Any) -> Any:
    """Writes 16 f32 as numbers of the format with this name (a constant), `stride` bytes apart."""
    narrow = _NARROWED[name.literal_value]

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        _, address, stride, numbers = arguments
        llvm.scatter(b, narrow(b, numbers), address, stride)
        return context.get_dummy_value()

    return types.void(name, types.intp, types.intp, F32), lower
