"""The integer product of a block of codes with a tile of activations: what each processor does its own way.

matmul.py calls `block_dot`. Activations are int8, [quad][token][4]: the four bytes of a quad and token are broadcast to
all lanes and meet a quad of 16 rows. Invariant: the result is the exact integer in every lowering (lowerings/), so the
instruction set changes the speed and never a bit.
"""

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from worker.kernels.codes import CODES
from worker.kernels.instruction_sets import INSTRUCTION_SET
from worker.kernels.lowerings.operand import Operand
from worker.kernels.simd import I32, Tile


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
        operand = Operand(CODES[code.literal_value], quads, result.count, panel, x)
        return cgutils.pack_array(b, INSTRUCTION_SET.dot(b, operand))

    return result(code, first, last, count, types.intp, types.intp), lower
