"""The integer product of a block of codes with a tile of activations: what each processor does its own way.

tile_products.py calls `block_dot`, matmul.py what unpacks for it. Activations are int8, [token][32]: the four bytes of
a quad of a token are broadcast to all lanes and meet a quad of 16 rows. Invariant: the result is the exact integer in
every lowering (lowerings/), so the instruction set changes the speed and never a bit.
"""

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from worker.kernels import llvm
from worker.kernels.codes import CODES, QUADS
from worker.kernels.instruction_sets import INSTRUCTION_SET
from worker.kernels.lowerings import amx
from worker.kernels.lowerings.operand import Operand
from worker.kernels.simd import I32, Tile

UNPACKED_BYTES = amx.UNPACKED_BYTES  # of a block


@intrinsic(prefer_literal=True)
def block_dot(
    typing: Any, code: Any, bias: Any, first: Any, last: Any, num_panels: Any, num_tokens: Any, panel: Any,
    stride: Any, unpacked: Any, x: Any, sums: Any,
) -> Any:  # fmt: skip
    """Exact integer products of quads first .. last - 1 of a block: Tile(i32, ...) of 16 rows, by token or by panel.

    What is multiplied is code - bias. code, bias, first, last, num_panels, num_tokens: constants, the first a name of
    CODES, and one of the last two is 1; panel: address of the block's codes, of which those of the other panels are
    `stride` bytes apart; unpacked: of what `unpack_block` made of them, where takes_unpacked(num_tokens); x: of the
    block's activations, int8 [num_tokens][32]; sums: of their sums over these quads, i32 [num_tokens].
    """
    quads = range(first.literal_value, last.literal_value)
    panels, tokens = num_panels.literal_value, num_tokens.literal_value
    result = Tile(I32, panels * tokens)

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        *_, panel, stride, unpacked, x, sums = arguments
        if takes_unpacked(tokens):
            return cgutils.pack_array(b, amx.dot(b, quads, unpacked, x))
        places = [b.add(panel, b.mul(stride, llvm.I64(index))) for index in range(panels)]
        operands = [Operand(CODES[code.literal_value], bias.literal_value, quads, tokens, place, x, sums)
                    for place in places]
        return cgutils.pack_array(b, [dots for operand in operands for dots in INSTRUCTION_SET.dot(b, operand)])

    addresses = (types.intp,) * 5
    return result(code, bias, first, last, num_panels, num_tokens, *addresses), lower


def takes_unpacked(num_tokens: int) -> bool:
    """Whether products with a tile of so many tokens take weights from `unpack_block`, between the two below."""
    return num_tokens > 0 and num_tokens == INSTRUCTION_SET.unpacked_tile


@intrinsic(prefer_literal=True)
def unpack_block(typing: Any, code: Any, bias: Any, panel: Any, out: Any) -> Any:
    """Writes a block's codes less the bias, which fit int8, as UNPACKED_BYTES at `out`, which is aligned to 64.

    code, bias: constants.
    """

    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        *_, panel, out = arguments
        kind = CODES[code.literal_value]
        amx.unpack(b, Operand(kind, bias.literal_value, range(QUADS), 0, panel, None, None), out)
        return context.get_dummy_value()

    return types.void(code, bias, types.intp, types.intp), lower


def _around_products(lowering: Callable[[Any], None], text: str) -> Any:
    def around(typing: Any) -> Any:
        def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            if INSTRUCTION_SET.unpacked_tile:
                lowering(b)
            return context.get_dummy_value()

        return types.void(), lower

    around.__doc__ = text
    return intrinsic(around)


begin_unpacked = _around_products(amx.begin, "This thread's products take unpacked weights from now on.")
end_unpacked = _around_products(amx.end, "This thread's products no longer take unpacked weights.")
