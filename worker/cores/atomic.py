"""Compare and swap on memory that processes share: what lease.py builds on. Compiled with the other kernels.

Invariant: it is one indivisible step, in one order for everybody, on eight aligned bytes.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from worker.kernels.jit import entry

_I64 = ir.IntType(64)


@intrinsic  # type: ignore[untyped-decorator]
def _swap(typing: Any, address: Any, expected: Any, desired: Any) -> Any:
    def lower(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        address, expected, desired = arguments
        outcome = b.cmpxchg(b.inttoptr(address, _I64.as_pointer()), expected, desired, "seq_cst", "seq_cst")
        return b.extract_value(outcome, 1)

    return types.boolean(types.uint64, types.uint64, types.uint64), lower


@entry(types.boolean(types.uint64, types.uint64, types.uint64))
def compare_and_swap(address, expected, desired):  # type: ignore[no-untyped-def]
    """Writes `desired` at the address if `expected` is there; says whether it did."""
    return _swap(address, expected, desired)


KERNELS = (compare_and_swap,)  # to be compiled before the first request
