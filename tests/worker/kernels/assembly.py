"""Prints the assembly of a product for a processor that need not be this one: python -m ... FORMAT FEATURE ...

A program of its own, because the instruction set is chosen when the kernels are imported. The environment names it
(CORRAL_ISA) and the processor (NUMBA_CPU_NAME, NUMBA_CPU_FEATURES); nothing of the product is executed.
"""

import importlib
import sys

import llvmlite.binding

from worker.kernels.lowerings import amx


def main(format: str, *features: str) -> None:
    processor = llvmlite.binding.get_host_cpu_features()
    processor.update(dict.fromkeys(features, True))
    llvmlite.binding.get_host_cpu_features = lambda: processor
    amx.is_permitted = lambda: True
    product = importlib.import_module("worker.kernels.matmul").PRODUCTS[format]
    product.compile()
    print(product._compiled._library.get_asm_str())


if __name__ == "__main__":
    main(*sys.argv[1:])
