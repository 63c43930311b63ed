"""LLVM's instructions as the lowerings of intrinsics write them: `b` is the builder, values and addresses are LLVM's.

Called while a kernel is compiled, by what simd, memory, number_formats and lowerings/ declare. An address is an i64 and
becomes a pointer only where memory is touched. Invariant: nothing here knows how wide a kernel's vectors are.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils

BIT, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
FLOAT, HALF = ir.FloatType(), ir.HalfType()


def pointer(b: Any, address: Any, element: Any) -> Any:
    return b.inttoptr(address, element.as_pointer())


def load(b: Any, address: Any, element: Any, align: int) -> Any:
    instruction = b.load(pointer(b, address, element))
    instruction.align = align
    return instruction


def store(b: Any, value: Any, address: Any, align: int) -> None:
    b.store(value, pointer(b, address, value.type)).align = align


def room(b: Any, num_bytes: int) -> Any:
    """Address of so many bytes on the stack, aligned to 64, which hold anything."""
    with b.goto_entry_block():
        place = b.alloca(ir.ArrayType(I8, num_bytes))
        place.align = 64
        return b.ptrtoint(place, I64)


def scatter(b: Any, values: Any, address: Any, stride: Any) -> None:
    """Writes the lanes of a vector `stride` bytes apart."""
    for lane in range(values.type.count):
        store(b, b.extract_element(values, I32(lane)), b.add(address, b.mul(stride, I64(lane))), 1)


def offset(b: Any, address: Any, distance: int) -> Any:
    return b.add(address, I64(distance))


def at(b: Any, address: Any, index: int | Any, stride: int) -> Any:
    """address + index * stride; index is a number or a value."""
    return offset(b, address, index * stride) if isinstance(index, int) else b.add(address, b.mul(index, I64(stride)))


def constant(vector: Any, value: float) -> Any:
    """All lanes of a type of vectors hold a number known here."""
    return ir.Constant(vector, [value] * vector.count)


def splat(b: Any, value: Any, lanes: int) -> Any:
    """All lanes hold a value known when the kernel runs."""
    vector = ir.VectorType(value.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    single = b.insert_element(undefined, value, I32(0))
    return b.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def slice(b: Any, vector: Any, first: int, count: int) -> Any:
    """Lanes first .. first + count - 1."""
    mask = ir.Constant(ir.VectorType(I32, count), list(range(first, first + count)))
    return b.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def join(b: Any, low: Any, high: Any) -> Any:
    """The lanes of two vectors of one type, one after the other."""
    count = low.type.count * 2
    return b.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, count), list(range(count))))


def call(b: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Calls one of LLVM's intrinsics by its name."""
    signature = ir.FunctionType(result, [a.type for a in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, signature, name), arguments)
