"""Codes: the small unsigned numbers that quantised weights are made of, and how a block of them lies in a panel.

A block is 16 rows x 32 k. Four k-values of a row, a quad, lie in one 32-bit lane, so 64 bytes hold a quad of all 16
rows. The bits of a code are split into planes of 1, 2, 4 or 8 bits, the lowest first. A plane of w bits packs 8 / w
quads into each 64 bytes: quad q is in vector q // (8 / w) of its plane, shifted left by w * (q % (8 / w)). The planes
follow one another. A block takes 64 bytes for each bit of a code.

panels.py packs by this table, lowerings/ and the row readers of ops.py unpack by it. Invariant: a code, after the table
if there is one, is in 0 .. largest.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from worker.quants import IQ4_VALUES, MXFP4_VALUES

BLOCK = 32
QUADS = BLOCK // 4
QUAD_BYTES = 64


@dataclass(frozen=True)
class Plane:
    """Some bits of every code of a block; they begin at vector `position` of the block."""

    bits: int
    position: int  # of the lowest one in the code

    @property
    def quads_per_vector(self) -> int:
        """Quads that share 64 bytes."""
        return 8 // self.bits

    def shift(self, quad: int) -> int:
        """Where the quad's bits begin in the bytes of its vector."""
        return self.bits * (quad % self.quads_per_vector)


@dataclass(frozen=True)
class Code:
    """One kind of code: its planes, and the value of each code where that is not the code itself."""

    planes: tuple[Plane, ...]
    table: tuple[int, ...] = ()

    @property
    def bits(self) -> int:
        """Width of a code in memory."""
        return sum(plane.bits for plane in self.planes)

    @property
    def largest(self) -> int:
        """The largest value that takes part in a product."""
        return max(self.table, default=2**self.bits - 1)

    @property
    def block_bytes(self) -> int:
        """Bytes of a block of 16 rows."""
        return QUAD_BYTES * self.bits


_FOUR = (Plane(4, 0),)

CODES: Mapping[str, Code] = {
    "2": Code((Plane(2, 0),)),
    "3": Code((Plane(2, 0), Plane(1, 2))),
    "4": Code(_FOUR),
    "5": Code((Plane(4, 0), Plane(1, 4))),
    "6": Code((Plane(4, 0), Plane(2, 4))),
    "8": Code((Plane(8, 0),)),
    "IQ4": Code(_FOUR, tuple(int(value) + 128 for value in IQ4_VALUES)),
    "MXFP4": Code(_FOUR, tuple(int(value) + 12 for value in MXFP4_VALUES)),
}
