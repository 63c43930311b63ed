"""What lowerings with x86's instructions share: the byte shuffle, and registers that hold half of the rows."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from worker.kernels import llvm

_SHUFFLES = {32: "llvm.x86.avx2.pshuf.b", 64: "llvm.x86.avx512.pshuf.b.512"}


def look_up(b: Any, table: Sequence[int], codes: Any) -> Any:
    """Replaces codes of 4 bits by what the table has for them; without a table they stay."""
    if not table:
        return codes
    entries = ir.Constant(codes.type, list(table) * (codes.type.count // 16))
    return llvm.call(b, _SHUFFLES[codes.type.count], codes.type, entries, codes)


def whole(b: Any, parts: list[list[Any]]) -> list[Any]:
    """Each token's 16 lanes from what was summed in one part or in two."""
    return parts[0] if len(parts) == 1 else [llvm.join(b, low, high) for low, high in zip(*parts, strict=True)]
