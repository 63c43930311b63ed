"""python -m worker.warm: compiles the kernels whose names come on standard input into the cache, for compilation.py.

Says "ready" when it waits for a name and "done" when that kernel is compiled. Ends with its input, or when nobody
listens.
"""

import os
import sys

from worker import sampler
from worker.cores import atomic
from worker.kernels import cache_pages, ops
from worker.kernels.attention import ATTEND
from worker.kernels.jit import Entry, Native
from worker.kernels.matmul import PRODUCTS
from worker.model import experts
from worker.model.forward import NATIVES, compute

_ALL: list[Native | Entry] = [
    compute,
    *NATIVES,
    *experts.NATIVES,
    *PRODUCTS.values(),
    *ATTEND.values(),
    *cache_pages.KEY_WRITERS.values(),
    *cache_pages.VALUE_WRITERS.values(),
    *cache_pages.VALUE_CLEARERS.values(),
    *ops.ROW_READERS.values(),
    *(kernel for pair in ops.GATED.values() for kernel in pair),
    ops.rotate_pairs,
    ops.rotate_halves,
    *sampler.KERNELS,
    *atomic.KERNELS,
]
KERNELS = {kernel.name: kernel for kernel in _ALL}


def main() -> None:
    try:
        print("ready", flush=True)
        for line in sys.stdin:
            KERNELS[line.rstrip("\n")].compile()
            print("done", "ready", sep="\n", flush=True)
    except BrokenPipeError:  # what could not be said is said to nobody when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
