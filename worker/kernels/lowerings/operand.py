"""What a product of a block of codes is of, and its codes as vectors of bytes; every lowering begins here."""

import functools
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from worker.kernels import llvm
from worker.kernels.codes import BLOCK, QUAD_BYTES, Code, Plane


@dataclass(frozen=True)
class Operand:
    """What a product is of: `quads` of the block at `panel`, and the block's activations of `count` tokens at `x`.

    Codes less `bias` are multiplied; the tokens' sums of activations over the quads are at `sums`.
    """

    code: Code
    bias: int
    quads: range
    count: int
    panel: Any
    x: Any
    sums: Any

    def activation(self, b: Any, quad: int | Any, token: int, lanes: int) -> Any:
        """The four bytes of a quad and token in each of `lanes` lanes of i32."""
        return llvm.splat(b, llvm.load(b, self.activation_at(b, quad, token), llvm.I32, 4), lanes)

    def activation_at(self, b: Any, quad: int | Any, token: int) -> Any:
        """The address of the four bytes of a quad and token."""
        return llvm.offset(b, llvm.at(b, self.x, quad, 4), BLOCK * token)

    def packed(self, b: Any, plane: Plane, quad: int, part: int, width: int) -> Any:
        """The bytes part * width and on of the vector that has a quad of a plane: <width x i8>."""
        distance = QUAD_BYTES * (plane.position + quad // plane.quads_per_vector) + part * width
        return llvm.load(b, llvm.offset(b, self.panel, distance), ir.VectorType(llvm.I8, width), 1)

    def less_bias(self, b: Any, dots: list[Any], done: int = 0) -> list[Any]:
        """Each token's products of codes less the bias, from those of codes less `done`."""
        if self.bias == done:
            return dots
        bias = llvm.constant(dots[0].type, self.bias - done)
        sums = [llvm.load(b, llvm.offset(b, self.sums, 4 * token), llvm.I32, 4) for token in range(self.count)]
        return [b.sub(dot, b.mul(llvm.splat(b, sum_, bias.type.count), bias))
                for dot, sum_ in zip(dots, sums, strict=True)]

    def codes(self, b: Any, quad: int, part: int, width: int) -> Any:
        """Codes of a quad, of the rows in bytes part * width and on: <width x i8>, before any table."""
        return functools.reduce(b.or_, [
            take_field(b, self.packed(b, plane, quad, part, width), plane, quad) for plane in self.code.planes
        ])


def take_field(b: Any, packed: Any, plane: Plane, quad: int) -> Any:
    """A quad's bits of a plane's vector, moved to their place in the code."""
    if plane.bits == 8:
        return packed
    words = b.bitcast(packed, ir.VectorType(llvm.I16, packed.type.count // 2))
    distance = plane.shift(quad) - plane.position
    if distance:
        words = (b.lshr if distance > 0 else b.shl)(words, llvm.constant(words.type, abs(distance)))
    mask = ((1 << plane.bits) - 1) << plane.position
    return b.and_(b.bitcast(words, packed.type), llvm.constant(packed.type, mask))
