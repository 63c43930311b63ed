"""TDPBSSD: a block of 16 rows with 16 tokens in one instruction, from registers that hold tiles of bytes.

It takes weights unpacked to signed bytes, which is worth it where several tiles of tokens share them, and leaves its
sums in memory. A thread must have set up its tile registers (`begin`), and gives them back when it is done, so that the
system need not save them: this file draws what they hold. To the process they belong only once it has asked.
"""

import ctypes
import platform
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from worker.kernels import llvm
from worker.kernels.codes import BLOCK, QUAD_BYTES, QUADS
from worker.kernels.lowerings.operand import Operand
from worker.kernels.lowerings.x86 import look_up
from worker.kernels.simd import LANES

TILES = "amx-tile"  # LLVM's name for processors with tile registers
TOKENS = 16  # of a tile
UNPACKED_BYTES = BLOCK * LANES  # of a block

_VOID, _VECTOR = ir.VoidType(), ir.VectorType(llvm.I32, LANES)
_BYTES = ir.VectorType(llvm.I8, QUAD_BYTES)
_SUM_BYTES = 4 * LANES  # of a token

# Tile registers: the sums, and by the number of quads that are multiplied, activations and weights.
_SUMS = 0
_OPERANDS = {QUADS: (1, 2), QUADS // 2: (3, 4)}
SHAPES = {_SUMS: (TOKENS, _SUM_BYTES)} | {  # rows, and bytes of a row
    register: shape
    for quads, registers in _OPERANDS.items()
    for register, shape in zip(registers, ((TOKENS, 4 * quads), (quads, QUAD_BYTES)), strict=True)
}

_ARCH_PRCTL, _ASK_FOR_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # Linux on x86-64


def is_permitted() -> bool:
    """Asks the system for the tile registers, for this process and those that it forks; it may have none to give."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ASK_FOR_PERMISSION, _TILE_DATA) == 0)


def begin(b: Any) -> None:
    """Sets up this thread's tile registers."""
    rows, row_bytes = [0] * 16, [0] * 16
    for register, (count, size) in SHAPES.items():
        rows[register], row_bytes[register] = count, size
    setup = bytes([1, 0, *[0] * 14]) + b"".join(size.to_bytes(2, "little") for size in row_bytes) + bytes(rows)
    place = cgutils.global_constant(b, "tile_setup", cgutils.make_bytearray(setup))
    llvm.call(b, "llvm.x86.ldtilecfg", _VOID, b.bitcast(place, llvm.I8.as_pointer()))


def end(b: Any) -> None:
    """Gives this thread's tile registers back."""
    llvm.call(b, "llvm.x86.tilerelease", _VOID)


def unpack(b: Any, o: Operand, out: Any) -> None:
    """Writes a block's codes less the bias, int8 [quad][row][4], to `out`."""
    bias = llvm.constant(_BYTES, o.bias)
    for quad in o.quads:
        codes = look_up(b, o.code.table, o.codes(b, quad, 0, QUAD_BYTES))
        llvm.store(b, b.sub(codes, bias), llvm.offset(b, out, QUAD_BYTES * quad), 64)


def dot(b: Any, quads: range, weights: Any, x: Any) -> list[Any]:
    """Products of what `unpack` wrote with a tile's activations, int8 [token][32]: 16 x i32 for each token."""
    activations, unpacked = _OPERANDS[len(quads)]
    place = llvm.room(b, TOKENS * _SUM_BYTES)
    llvm.call(b, "llvm.x86.tilezero", _VOID, llvm.I8(_SUMS))
    _move(b, "tileloadd64", activations, llvm.offset(b, x, 4 * quads.start), BLOCK)
    _move(b, "tileloadd64", unpacked, llvm.offset(b, weights, QUAD_BYTES * quads.start), QUAD_BYTES)
    llvm.call(b, "llvm.x86.tdpbssd", _VOID, llvm.I8(_SUMS), llvm.I8(activations), llvm.I8(unpacked))
    _move(b, "tilestored64", _SUMS, place, _SUM_BYTES)
    return [llvm.load(b, llvm.offset(b, place, _SUM_BYTES * token), _VECTOR, 64) for token in range(TOKENS)]


def _move(b: Any, instruction: str, register: int, address: Any, stride: int) -> None:
    """Between a tile register and memory, whose rows are `stride` bytes apart."""
    place = llvm.pointer(b, address, llvm.I8)
    llvm.call(b, f"llvm.x86.{instruction}", _VOID, llvm.I8(register), place, llvm.I64(stride))
