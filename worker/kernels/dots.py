"""The integer product of a block of codes with a tile of activations: what each processor does its own way.

matmul.py calls `block_dot`. Activations are int8, [quad][token][4]: the four bytes of a quad and token are broadcast to
all lanes and meet a quad of 16 rows. Invariant: the result is the exact integer in every lowering (lowerings/), so the
instruction set changes the speed and never a bit.
"""

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from worker.kernels import llvm
from worker.kernels.codes import CODES
from worker.kernels.instruction_sets import INSTRUCTION_SET
from worker.kernels.lowerings.operand import Operand
from worker.kernels.simd import I32, Tile


@intrinsic(prefer_literal=True)
def block_dot(
    typing: Any, code: Any, bias: Any, first: Any, last: Any, num_panels: Any, num_tokens: Any, panel: Any,
    stride: Any, x: Any, sums: Any,
) -> Any:  # fmt: skip
    """Exact integer products of quads first .. last - 1 of a block: Tile(i32, ...) of 16 rows, by token or by panel.

    What is multiplied is code - bias. code, bias, first, last, num_panels, num_tokens: constants, the first a name of
    CODES, and one of the last two is 1; panel: address of the block's codes, of which those of the other panels are
    `stride` bytes apart; x: address of the block's activations, int8 [8 quads][num_tokens][4]; sums: of their sums over
    these quads, i32 [num_tokens].
    """
    quads = range(first.literal_value, last.literal_value)
    panels, tokens = num_panels.literal_value, num_tokens.literal_value
    result = Tile(I32, panels * tokens)

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        *_, panel, stride, x, sums = arguments
        places = [b.add(panel, b.mul(stride, llvm.I64(index))) for index in range(panels)]
        operands = [Operand(CODES[code.literal_value], bias.literal_value, quads, tokens, place, x, sums)
                    for place in places]
        return cgutils.pack_array(b, [dots for operand in operands for dots in INSTRUCTION_SET.dot(b, operand)])

    addresses = (types.intp,) * 4
    return result(code, bias, first, last, num_panels, num_tokens, *addresses), lower
