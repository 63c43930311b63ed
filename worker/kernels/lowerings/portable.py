"""Any processor: shifts, multiplications and additions in 32 bits, left to LLVM."""

from collections.abc import Sequence
from typing import Any

from worker.kernels import llvm
from worker.kernels.lowerings.operand import Operand
from worker.kernels.simd import I32, LANES


def dot(b: Any, o: Operand) -> list[Any]:
    """The lowering of block_dot."""
    sums = [llvm.constant(I32.llvm, 0)] * o.count
    for quad in o.quads:
        lanes = b.bitcast(_select_bytes(b, o.code.table, o.codes(b, quad, 0, 64)), I32.llvm)
        for byte in range(4):
            weights = b.and_(b.lshr(lanes, llvm.constant(I32.llvm, 8 * byte)), llvm.constant(I32.llvm, 255))
            for token in range(o.count):
                value = llvm.load(b, llvm.offset(b, o.activation_at(b, quad, token), byte), llvm.I8, 1)
                sums[token] = b.add(sums[token], b.mul(weights, llvm.splat(b, b.sext(value, llvm.I32), LANES)))
    return o.less_bias(b, sums)


def _select_bytes(b: Any, table: Sequence[int], codes: Any) -> Any:
    """Looks codes of 4 bits up by halving the table: each bit of a code chooses between neighbours."""
    if not table:
        return codes
    values = [llvm.constant(codes.type, value) for value in table]
    for bit in range(4):
        odd = b.icmp_unsigned("!=", b.and_(codes, llvm.constant(codes.type, 1 << bit)), llvm.constant(codes.type, 0))
        values = [b.select(odd, high, low) for low, high in zip(values[::2], values[1::2], strict=True)]
    return values[0]
