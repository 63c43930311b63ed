"""vpdpbusd: four products a lane, summed to i32 without saturation; in AVX-512 VNNI and in AVX-VNNI."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from worker.kernels import llvm
from worker.kernels.lowerings.operand import Operand
from worker.kernels.lowerings.x86 import look_up, whole
from worker.kernels.simd import LANES


def dot_of_width(width: int) -> Callable[[Any, Operand], list[Any]]:
    """The lowering of block_dot with registers of `width` bits: 512, or 256, which hold half of the rows."""
    lanes = width // 32
    lane_vector, parts = ir.VectorType(llvm.I32, lanes), LANES // lanes
    instruction = f"llvm.x86.avx512.vpdpbusd.{width}"

    def lower(b: Any, o: Operand) -> list[Any]:
        sums = [[llvm.constant(lane_vector, 0)] * o.count for _ in range(parts)]
        for quad in o.quads:
            weights = [b.bitcast(look_up(b, o.code.table, o.codes(b, quad, part, width // 8)), lane_vector)
                       for part in range(parts)]
            for token in range(o.count):
                activation = o.activation(b, quad, token, lanes)
                for part in range(parts):
                    sums[part][token] = llvm.call(b, instruction, lane_vector,
                                                  sums[part][token], weights[part], activation)
        return o.less_bias(b, whole(b, sums))

    return lower
