"""The instructions of rows that this processor lacks, written out in ones that every processor has.

With them in place of LLVM's, a row's whole lowering is executed here: its tiles, the order of its operands, which bytes
are signed. What LLVM makes of the real instructions is looked at in test_lowerings.py.
"""

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from worker.kernels import instruction_sets, llvm
from worker.kernels.lowerings import amx

_TILE_ROW = 64  # bytes of a row of a tile register


def _dot_bytes(b: Any, sums: Any, weights: Any, activations: Any, *, signed: bool = False) -> Any:
    """vpdpbusd: adds to each lane of i32 the products of its four unsigned bytes with four signed ones."""
    lanes = sums.type.count
    bytes_, wide = ir.VectorType(llvm.I8, 4 * lanes), ir.VectorType(llvm.I32, 4 * lanes)
    extend = b.sext if signed else b.zext
    products = b.mul(extend(b.bitcast(weights, bytes_), wide), b.sext(b.bitcast(activations, bytes_), wide))
    for byte in range(4):
        places = ir.Constant(ir.VectorType(llvm.I32, lanes), list(range(byte, 4 * lanes, 4)))
        sums = b.add(sums, b.shuffle_vector(products, ir.Constant(wide, ir.Undefined), places))
    return sums


def _shuffle_bytes(b: Any, entries: Any, codes: Any) -> Any:
    """vpshufb, of tables that are the same in every 16 bytes and of codes below 16."""
    found = llvm.constant(codes.type, 0)
    for code, entry in enumerate(entries.constant[:16]):
        found = b.select(b.icmp_unsigned("==", codes, llvm.constant(codes.type, code)),
                         llvm.constant(codes.type, entry), found)
    return found


def _tile(b: Any, register: Any) -> tuple[Any, int, int]:
    """(address, rows, bytes of a row) of what a register holds; nothing sees it outside one module."""
    name = f"tile_{register.constant}"
    if name not in b.module.globals:
        held = cgutils.add_global_variable(b.module, ir.ArrayType(llvm.I8, 16 * _TILE_ROW), name)
        held.linkage, held.initializer, held.align = "internal", ir.Constant(held.value_type, None), 64
    return b.ptrtoint(b.module.globals[name], llvm.I64), *amx.SHAPES[register.constant]


def _move_tile(b: Any, register: Any, memory: Any, stride: Any, *, loads: bool) -> None:
    held, num_rows, row_bytes = _tile(b, register)
    for row in range(num_rows):
        there = b.add(b.ptrtoint(memory, llvm.I64), b.mul(stride, llvm.I64(row)))
        here = llvm.offset(b, held, _TILE_ROW * row)
        source, target = (there, here) if loads else (here, there)
        llvm.store(b, llvm.load(b, source, ir.VectorType(llvm.I8, row_bytes), 1), target, 1)


def _clear_tile(b: Any, register: Any) -> None:
    held, num_rows, row_bytes = _tile(b, register)
    for row in range(num_rows):
        llvm.store(b, llvm.constant(ir.VectorType(llvm.I8, row_bytes), 0), llvm.offset(b, held, _TILE_ROW * row), 1)


def _multiply_tiles(b: Any, sums: Any, left: Any, right: Any) -> None:
    """tdpbssd: adds to the lanes of row m the products of the quads of left's row m with right's rows, one each."""
    (out, num_rows, _), (rows, _, row_bytes), (columns, num_quads, _) = (_tile(b, each) for each in (sums, left, right))
    assert row_bytes == 4 * num_quads
    lanes = ir.VectorType(llvm.I32, 16)
    for row in range(num_rows):
        place = llvm.offset(b, out, _TILE_ROW * row)
        total = llvm.load(b, place, lanes, 1)
        for quad in range(num_quads):
            each = llvm.splat(b, llvm.load(b, llvm.offset(b, rows, _TILE_ROW * row + 4 * quad), llvm.I32, 1), 16)
            other = llvm.load(b, llvm.offset(b, columns, _TILE_ROW * quad), lanes, 1)
            total = _dot_bytes(b, total, other, each, signed=True)
        llvm.store(b, total, place, 1)


_WRITTEN_OUT: dict[str, Callable[..., Any]] = {
    "llvm.x86.ldtilecfg": lambda b, setup: None,
    "llvm.x86.tilerelease": lambda b: None,
    "llvm.x86.tilezero": _clear_tile,
    "llvm.x86.tileloadd64": functools.partial(_move_tile, loads=True),
    "llvm.x86.tilestored64": functools.partial(_move_tile, loads=False),
    "llvm.x86.tdpbssd": _multiply_tiles,
    "llvm.x86.avx512.vpdpbusd.256": _dot_bytes,
    "llvm.x86.avx512.vpdpbusd.512": _dot_bytes,
    "llvm.x86.avx2.pshuf.b": _shuffle_bytes,
    "llvm.x86.avx512.pshuf.b.512": _shuffle_bytes,
}


def emulate(name: str) -> None:
    """Puts a row in force; to be called before the kernels are imported."""
    instruction_sets.INSTRUCTION_SET = instruction_sets.INSTRUCTION_SETS[name]
    real = llvm.call

    def call(b: Any, name: str, result: Any, *arguments: Any) -> Any:
        if written_out := _WRITTEN_OUT.get(name):
            return written_out(b, *arguments)
        assert not name.startswith("llvm.x86"), name
        return real(b, name, result, *arguments)

    llvm.call = call
