"""Loads and stores of kernels: vectors, tiles and single numbers at addresses.

Addresses are plain integers, so that no kernel carries array structs or reference counts, and distances are bytes. What
is stored in a narrower format than f32 and read back as f32 is in number_formats.py.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from worker.kernels import llvm
from worker.kernels.simd import F32, I32, LANES, Tile


@intrinsic
def load(typing: Any, address: Any) -> Any:
    """16 f32 at an address."""
    return F32(types.intp), lambda context, b, signature, arguments: llvm.load(b, arguments[0], F32.llvm, 4)


@intrinsic
def store(typing: Any, address: Any, value: Any) -> Any:
    """Writes 16 f32."""

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        llvm.store(b, arguments[1], arguments[0], 4)
        return context.get_dummy_value()

    return types.void(types.intp, F32), lower


@intrinsic(prefer_literal=True)
def load_rows(typing: Any, address: Any, stride: Any, count: Any) -> Any:
    """Reads `count` vectors at address + t * stride: Tile(f32, count)."""
    result = Tile(F32, count.literal_value)

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        address, distance, _ = arguments
        return cgutils.pack_array(b, [
            llvm.load(b, b.add(address, b.mul(distance, llvm.I64(token))), F32.llvm, 4) for token in range(result.count)
        ])

    return result(types.intp, types.intp, count), lower


@intrinsic
def store_rows(typing: Any, address: Any, stride: Any, tile: Any) -> Any:
    """Writes vector t of a tile at address + t * stride."""

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        address, distance, values = arguments
        for token in range(tile.count):
            llvm.store(b, b.extract_value(values, token), b.add(address, b.mul(distance, llvm.I64(token))), 4)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, tile), lower


@intrinsic(prefer_literal=True)
def store_columns(typing: Any, address: Any, stride: Any, rows: Any, tile: Any) -> Any:
    """Writes a tile of columns, of `rows` vectors each (a constant), `stride` bytes apart; columns are side by side."""
    num_rows = rows.literal_value

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        address, distance, _, values = arguments
        for index in range(tile.count):
            column, row = divmod(index, num_rows)
            place = b.add(llvm.offset(b, address, 4 * LANES * column), b.mul(distance, llvm.I64(row)))
            llvm.store(b, b.extract_value(values, index), place, 4)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, rows, tile), lower


def _splat_at(b: Any, address: Any, element: Any) -> Any:
    return llvm.splat(b, llvm.load(b, address, element, 4), LANES)


@intrinsic(prefer_literal=True)
def splats(typing: Any, address: Any, count: Any) -> Any:
    """`count` consecutive f32, each broadcast to a vector: Tile(f32, count)."""
    result = Tile(F32, count.literal_value)

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return cgutils.pack_array(b, [
            _splat_at(b, llvm.offset(b, arguments[0], 4 * token), llvm.FLOAT) for token in range(result.count)
        ])

    return result(types.intp, count), lower


@intrinsic(prefer_literal=True)
def splats_i32(typing: Any, address: Any, count: Any) -> Any:
    """`count` consecutive i32, each broadcast to a vector: Tile(i32, count)."""
    result = Tile(I32, count.literal_value)

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return cgutils.pack_array(b, [
            _splat_at(b, llvm.offset(b, arguments[0], 4 * token), llvm.I32) for token in range(result.count)
        ])

    return result(types.intp, count), lower


@intrinsic(prefer_literal=True)
def splats_strided(typing: Any, address: Any, stride: Any, count: Any) -> Any:
    """`count` f32 at distances of `stride` bytes, each broadcast to a vector: Tile(f32, count)."""
    result = Tile(F32, count.literal_value)

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        address, distance, _ = arguments
        return cgutils.pack_array(b, [
            _splat_at(b, b.add(address, b.mul(distance, llvm.I64(token))), llvm.FLOAT) for token in range(result.count)
        ])

    return result(types.intp, types.intp, count), lower


@intrinsic
def store_i8(typing: Any, address: Any, value: Any) -> Any:
    """Writes the lowest byte of 16 i32 lanes."""

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        llvm.store(b, b.trunc(arguments[1], ir.VectorType(llvm.I8, LANES)), arguments[0], 1)
        return context.get_dummy_value()

    return types.void(types.intp, I32), lower


@intrinsic
def scatter_bytes(typing: Any, address: Any, stride: Any, value: Any) -> Any:
    """Writes the lowest byte of 16 i32 lanes, `stride` bytes apart."""

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        address, distance, lanes = arguments
        llvm.scatter(b, b.trunc(lanes, ir.VectorType(llvm.I8, LANES)), address, distance)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, I32), lower


def _loader(element: Any, read: Callable[[Any, Any], Any], result: Any) -> Any:
    @intrinsic
    def scalar(typing: Any, address: Any) -> Any:
        def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            return read(b, llvm.load(b, arguments[0], element, 1))

        return result(types.intp), lower

    return scalar


def _storer(argument: Any, convert: Callable[[Any, Any], Any]) -> Any:
    @intrinsic
    def scalar(typing: Any, address: Any, value: Any) -> Any:
        def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            llvm.store(b, convert(b, arguments[1]), arguments[0], 1)
            return context.get_dummy_value()

        return types.void(types.intp, argument), lower

    return scalar


load_scalar = _loader(llvm.FLOAT, lambda b, value: value, types.float32)
load_scalar_u8 = _loader(llvm.I8, lambda b, value: b.zext(value, llvm.I32), types.int32)
load_scalar_i32 = _loader(llvm.I32, lambda b, value: value, types.int32)
load_scalar_i64 = _loader(llvm.I64, lambda b, value: value, types.int64)

store_scalar = _storer(types.float32, lambda b, value: value)
store_scalar_f16 = _storer(types.float32, lambda b, value: b.fptrunc(value, llvm.HALF))
store_scalar_i32 = _storer(types.int32, lambda b, value: value)
store_scalar_i64 = _storer(types.int64, lambda b, value: value)
store_scalar_u8 = _storer(types.int32, lambda b, value: b.trunc(value, llvm.I8))


@intrinsic(prefer_literal=True)
def room(typing: Any, num_bytes: Any) -> Any:
    """Address of so many bytes (a constant) on the stack, aligned to 64, which are the caller's until it returns."""

    return types.intp(num_bytes), lambda context, b, signature, arguments: llvm.room(b, num_bytes.literal_value)


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Asks for the cache line at an address, which need not be readable."""

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        how = llvm.I32(0), llvm.I32(3), llvm.I32(1)  # to read, soon again, data
        llvm.call(b, "llvm.prefetch.p0", ir.VoidType(), llvm.pointer(b, arguments[0], llvm.I8), *how)
        return context.get_dummy_value()

    return types.void(types.intp), lower
