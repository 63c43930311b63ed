"""The instructions of rows that this processor lacks, written out in ones that every processor has.

With them in place of LLVM's, a row's whole lowering is executed here: its tiles, the order of its operands, which bytes
are signed. What LLVM makes of the real instructions is looked at in test_lowerings.py.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from worker.kernels import instruction_sets, llvm


def _dot_bytes(b: Any, sums: Any, weights: Any, activations: Any) -> Any:
    """vpdpbusd: adds to each lane of i32 the products of its four unsigned bytes with four signed ones."""
    lanes = sums.type.count
    bytes_, wide = ir.VectorType(llvm.I8, 4 * lanes), ir.VectorType(llvm.I32, 4 * lanes)
    products = b.mul(b.zext(b.bitcast(weights, bytes_), wide), b.sext(b.bitcast(activations, bytes_), wide))
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


_WRITTEN_OUT: dict[str, Callable[..., Any]] = {
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
