"""The machine's limits, measured: how fast it reads memory and multiplies int8, with one thread and with several.

    python -m bench.limits [--bytes N] [--threads 1,2]

Called by peers.py in the same run as the engines, because rates move from minute to minute. Invariant: nothing here
comes from our engine; generation cannot be faster than reading its weights once a token, nor prompt reading faster
than its products.
"""

import argparse
import ctypes
import functools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import llvmlite.binding as llvm
import numba
import numpy as np
from numpy.typing import NDArray

_MILLISECONDS = 300  # of one measurement
_ACTIVATIONS = 4096  # bytes, a part of the first-level cache
_LINE = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """Rates of one number of threads."""

    num_threads: int
    read_bytes: float  # a second
    products: float  # int8 multiply-adds a second


def measure(num_bytes: int, num_threads: int) -> Limits:
    """Reads `num_bytes` again and again, each thread its own part, as generation reads its weights."""
    return Limits(num_threads, _read_rate(num_bytes, num_threads), _product_rate(num_threads))


# ---- reading ----------------------------------------------------------------------------------


@numba.njit(nogil=True, boundscheck=False)  # type: ignore[untyped-decorator]
def _sum(words: NDArray[np.uint64]) -> np.uint64:
    """Reads at four places side by side, which gets more from memory than reading from front to back."""
    total, quarter = np.uint64(0), len(words) // 4
    for i in range(quarter):
        total += words[i] + words[i + quarter] + words[i + 2 * quarter] + words[i + 3 * quarter]
    return total


def _read_rate(num_bytes: int, num_threads: int) -> float:
    words = np.ones(num_bytes // 8, np.uint64)
    parts = np.array_split(words, num_threads)
    _sum(words[:1])
    passes = _rate([functools.partial(_sum, part) for part in parts])
    return passes * num_bytes


# ---- multiplying ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Product:
    """How a processor multiplies a register of int8: its width, and the instructions, given accumulator a, weights w
    and activations x."""

    features: frozenset[str]
    num_sums: int  # independent ones, enough to hide the latency of a product, a power of two
    num_bytes: int
    accumulator: str
    declarations: str
    code: str


def _vnni(bits: int, features: set[str]) -> _Product:
    kind = f"<{bits // 32} x i32>"
    name = f"@llvm.x86.avx512.vpdpbusd.{bits}"
    operand = f"<{bits // 8} x i8>"
    return _Product(
        frozenset(features),
        bits // 32,
        bits // 8,
        kind,
        f"declare {kind} {name}({kind}, {operand}, {operand})",
        f"  {{next}} = call {kind} {name}({kind} {{a}}, {operand} {{w}}, {operand} {{x}})\n",
    )


_PRODUCTS = (
    _vnni(512, {"avx512f", "avx512vnni"}),
    _vnni(256, {"avx512vl", "avx512vnni"}),
    _vnni(256, {"avxvnni"}),
    _Product(
        frozenset({"avx2"}),
        8,
        32,
        "<16 x i16>",
        "declare <16 x i16> @llvm.x86.avx2.pmadd.ub.sw(<32 x i8>, <32 x i8>)",
        "  {next}p = call <16 x i16> @llvm.x86.avx2.pmadd.ub.sw(<32 x i8> {w}, <32 x i8> {x})\n"
        "  {next} = add <16 x i16> {a}, {next}p\n",
    ),
)


def _product_rate(num_threads: int) -> float:
    """0 on a processor that the table does not know."""
    features = {name for name, on in llvm.get_host_cpu_features().items() if on}
    product = next((entry for entry in _PRODUCTS if entry.features <= features), None)
    if product is None:
        return 0.0
    engine, function = _compile(product)
    trips = 20_000
    activations = [_aligned_ones(_ACTIVATIONS) for _ in range(num_threads)]
    rate = _rate([functools.partial(function, x.ctypes.data, trips) for x in activations])
    del engine
    return rate * num_threads * trips * product.num_sums * product.num_bytes


def _aligned_ones(num_bytes: int) -> NDArray[np.int8]:
    """From the beginning of a cache line on: a load that crosses into the next one takes two."""
    memory = np.ones(num_bytes + _LINE, np.int8)
    return memory[-memory.ctypes.data % _LINE :][:num_bytes]


def _compile(product: _Product) -> tuple[llvm.ExecutionEngine, Callable[[int, int], int]]:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=3
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(_loop(product)), machine)
    engine.finalize_object()
    address = engine.get_function_address("products")
    return engine, ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)(address)


def _loop(product: _Product) -> str:
    """Several sums; each trip multiplies the same weights with as many registers of activations from the cache."""
    kind, operand = product.accumulator, f"<{product.num_bytes} x i8>"
    stride = product.num_bytes * product.num_sums
    phis, body = "", ""
    for i in range(product.num_sums):
        phis += f"  %a{i} = phi {kind} [zeroinitializer, %entry], [%n{i}, %loop]\n"
        body += f"  %o{i} = add i64 %place, {i * product.num_bytes}\n"
        body += f"  %p{i} = getelementptr i8, ptr %x, i64 %o{i}\n"
        body += f"  %x{i} = load {operand}, ptr %p{i}, align 1\n"
        body += product.code.format(next=f"%n{i}", a=f"%a{i}", w="%w", x=f"%x{i}")
    total = "%n0"
    ends = ""
    for i in range(1, product.num_sums):
        ends += f"  %s{i} = add {kind} {total}, %n{i}\n"
        total = f"%s{i}"
    element = kind.removesuffix(">").split(" x ")[1]
    return f"""
{product.declarations}
define i64 @products(ptr %x, i64 %trips) {{
entry:
  %w = load {operand}, ptr %x, align 1
  br label %loop
loop:
  %trip = phi i64 [0, %entry], [%later, %loop]
{phis}  %far = mul i64 %trip, {stride}
  %place = and i64 %far, {_ACTIVATIONS - 1}
{body}  %later = add i64 %trip, 1
  %more = icmp ult i64 %later, %trips
  br i1 %more, label %loop, label %done
done:
{ends}  %lane = extractelement {kind} {total}, i32 0
  %result = sext {element} %lane to i64
  ret i64 %result
}}
"""


# ---- timing -----------------------------------------------------------------------------------


def _rate(parts: Sequence[Callable[[], object]]) -> float:
    """Rounds a second, of all parts together, each in its own thread. The parts of one round do not wait for each
    other: the slowest thread's number of rounds counts."""
    counts = [0] * len(parts)
    begin = threading.Barrier(len(parts))
    seconds = [0.0] * len(parts)

    def work(i: int) -> None:
        parts[i]()
        begin.wait()
        started = time.perf_counter()
        deadline = started + _MILLISECONDS / 1000
        while (now := time.perf_counter()) < deadline or not counts[i]:
            parts[i]()
            counts[i] += 1
        seconds[i] = now - started

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return min(count / taken for count, taken in zip(counts, seconds, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.limits", description="Measure memory reads and int8 products.")
    parser.add_argument("--bytes", type=int, default=256 << 20, metavar="N", help="read again and again")
    parser.add_argument("--threads", default="1,2", metavar="N,N")
    options = parser.parse_args(arguments)
    print("| threads | read GB/s | int8 GMAC/s |\n|---:|---:|---:|")
    for num_threads in (int(text) for text in options.threads.split(",")):
        found = measure(options.bytes, num_threads)
        print(f"| {num_threads} | {found.read_bytes / 1e9:.1f} | {found.products / 1e9:.0f} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
