"""Instruction sets: a row for each, and the one in force, chosen when the kernels are imported.

A row says what a set needs, how much its registers hold, and what it makes of the one operation that processors do each
in their own way. Everything else is LLVM's. Invariant: rows change the speed and never a bit.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llvmlite.binding

from worker.errors import UnsupportedModel
from worker.kernels.lowerings import amx, avx2, portable, vnni
from worker.kernels.lowerings.operand import Operand


@dataclass(frozen=True)
class InstructionSet:
    """One row. Its sizes say how many sums, vectors of 16 lanes, stay in registers beside what is added to them."""

    name: str
    features: frozenset[str]  # that the processor must have
    tile_sizes: tuple[int, ...]  # of tokens, for products with codes: from one that uses all registers down to 1
    number_tile: int  # of tokens, for products with numbers
    attention_rows: int  # queries of attention's wide tile
    attention_sums: int  # that attention fills by taking pages or columns abreast; 0: it takes one after the other
    panels_abreast: int  # that a single token reads side by side
    asks_abreast: bool  # whether it asks ahead for all of these; else only quickly read codes lie abreast
    dot: Callable[[Any, Operand], list[Any]]  # the lowering of dots.block_dot: 16 x i32 for each token
    unpacked_tile: int = 0  # of tokens, for products with unpacked weights, as lowerings.amx takes them; 0: none


_AVX2 = frozenset({"avx2", "fma", "f16c"})
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512vnni"})
_WITH_32_REGISTERS: dict[str, Any] = {
    "tile_sizes": (12, 8, 4, 2, 1), "number_tile": 12, "attention_rows": 8, "attention_sums": 16,
    "panels_abreast": 4, "asks_abreast": True, "dot": vnni.dot_of_width(512),
}  # fmt: skip

# The fastest first.
INSTRUCTION_SETS: dict[str, InstructionSet] = {
    row.name: row
    for row in (
        InstructionSet("amx-int8", _AVX512 | {amx.TILES, "amx-int8"}, **_WITH_32_REGISTERS, unpacked_tile=amx.TOKENS),
        InstructionSet("avx512-vnni", _AVX512, **_WITH_32_REGISTERS),
        InstructionSet("avx-vnni", _AVX2 | {"avxvnni"}, (6, 4, 2, 1), 4, 6, 0, 4, False, vnni.dot_of_width(256)),
        InstructionSet("avx2", _AVX2, (8, 4, 2, 1), 4, 6, 0, 4, False, avx2.dot),
        InstructionSet("portable", frozenset(), (6, 4, 2, 1), 4, 4, 0, 1, False, portable.dot),
    )
}


def usable(features: frozenset[str]) -> list[str]:
    """Names of the sets that a processor with these features has."""
    return [row.name for row in INSTRUCTION_SETS.values() if row.features <= features]


def choose(wanted: str, features: frozenset[str]) -> InstructionSet:
    """The first set of the table that the processor has, or the wanted one if it has it.

    Raises UnsupportedModel if `wanted` is unknown or not to be had here.
    """
    names = usable(features)
    if wanted and wanted not in names:
        raise UnsupportedModel(f"CORRAL_ISA={wanted!r} cannot be used on this processor; usable: {', '.join(names)}")
    return INSTRUCTION_SETS[wanted or names[0]]


def _features() -> frozenset[str]:
    found = {name for name, on in llvmlite.binding.get_host_cpu_features().items() if on}
    return frozenset(found if amx.TILES not in found or amx.is_permitted() else found - {amx.TILES})


FEATURES = _features()
INSTRUCTION_SET = choose(os.environ.get("CORRAL_ISA", ""), FEATURES)
