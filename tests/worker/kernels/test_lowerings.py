"""Instruction sets change the speed and never a bit: those this processor has, and the others emulated."""

import json
import os
import re
import subprocess
import sys
from functools import lru_cache

import pytest

from tests.worker.kernels import lowering
from worker.kernels.codes import QUADS
from worker.kernels.instruction_sets import FEATURES, INSTRUCTION_SET, INSTRUCTION_SETS, usable
from worker.kernels.jit import cache_folder

OTHERS = [name for name in usable(FEATURES) if name != INSTRUCTION_SET.name]
EMULATED = ("amx-int8", "avx512-vnni", "avx-vnni")

digest = lru_cache(lambda part: lowering.PARTS[part]())


def run_module(name: str, *arguments: str, **environment: str) -> str:
    result = subprocess.run([sys.executable, "-m", f"tests.worker.kernels.{name}", *arguments], text=True,
                            env=os.environ | environment, capture_output=True)  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("name", OTHERS)
def test_every_usable_instruction_set_gives_the_same_bits(name):
    answer = json.loads(run_module("lowering", *lowering.PARTS, CORRAL_ISA=name))
    assert answer == {"set": name} | {part: digest(part) for part in lowering.PARTS}


@pytest.mark.parametrize("name", EMULATED)
def test_an_instruction_set_that_a_processor_may_lack_gives_the_same_bits_when_emulated(name):
    """They have a cache of their own, because its name does not know that a test has changed the instruction set."""
    cache = cache_folder() / "tests" / f"emulated-{name}"
    parts = ("block_dots", "product")
    answer = json.loads(run_module("lowering", "--emulate", name, *parts, CORRAL_CACHE=str(cache)))
    assert answer == {"set": name} | {part: digest(part) for part in parts}


AVX512 = {*INSTRUCTION_SETS["avx512-vnni"].features, "avx512dq", "avx2", "fma", "f16c"}
AMX = INSTRUCTION_SETS["amx-int8"].features
AVX_VNNI = INSTRUCTION_SETS["avx-vnni"].features


def assembly(tmp_path, instruction_set: str, processor: str, features: set[str] | frozenset[str], format: str) -> str:
    return run_module(
        "assembly", format, *sorted(features), CORRAL_ISA=instruction_set, CORRAL_CACHE=str(tmp_path),
        NUMBA_CPU_NAME=processor, NUMBA_CPU_FEATURES=",".join(f"+{feature}" for feature in sorted(features)),
    )  # fmt: skip


def innermost_loops(assembly: str) -> list[list[str]]:
    """Instructions from a label to the first jump back to it, where no other label is between."""
    lines = assembly.splitlines()
    loops = []
    for start, line in enumerate(lines):
        if label := re.match(r"(\.\w+):", line):
            body = []
            for following in lines[start + 1 :]:
                if re.match(r"\.\w+:", following):
                    break
                body.append(following.strip())
                if re.match(rf"\s+j\w+\s+{re.escape(label[1])}$", following):
                    loops.append(body)
                    break
    return loops


@pytest.mark.parametrize(("format", "most_spills"), [("Q4_1", 2), ("Q8_0", 0)])
def test_avx512_takes_weights_from_registers_and_broadcasts_activations_from_memory(tmp_path, format, most_spills):
    """12 tokens' sums of integers and of floats take 24 of the 32 registers, the codes of a block 8.

    Before the loops of tiles comes that of a single token with several panels.
    """
    text = assembly(tmp_path, "avx512-vnni", "znver4", AVX512, format)
    dots = [[line for line in loop if line.startswith("vpdpbusd")] for loop in innermost_loops(text)]
    tokens = [len(loop) // QUADS for loop in dots]
    row = INSTRUCTION_SETS["avx512-vnni"]
    assert [number for number in tokens if number] == [row.panels_abreast, *row.tile_sizes]
    assert all("%zmm" in line for loop in dots for line in loop)
    assert all("{1to16}" in line for loop in [loop for loop in dots if loop][1:] for line in loop)
    largest = innermost_loops(text)[tokens.index(12)]
    spills = [line for line in largest if re.match(r"vmov\w+\s+%zmm\d+, -?\d*\(%r[sb]p\)", line)]
    assert len(spills) <= most_spills


@pytest.mark.parametrize(("format", "most_spills"), [("Q4_0", 0), ("Q4_1", 4), ("Q8_0", 0)])
def test_amx_multiplies_a_block_with_16_tokens_in_one_instruction(tmp_path, format, most_spills):
    """The tile's sums are converted where they lie; smaller tiles have the instruction of AVX512."""
    text = assembly(tmp_path, "amx-int8", "sapphirerapids", AVX512 | AMX, format)
    (loop,) = [loop for loop in innermost_loops(text) if any("tdpbssd" in line for line in loop)]
    tiles = [line.split()[0] for line in loop if "tmm" in line]
    assert tiles == ["tilezero", "tileloadd", "tileloadd", "tdpbssd", "tilestored"]
    assert sum(bool(re.match(r"vcvtdq2ps\s+\d*\(%rsp", line)) for line in loop) == 16
    spills = [line for line in loop if re.match(r"vmov\w+\s+%zmm\d+, -?\d*\(%r[sb]p\)", line)]
    assert len(spills) <= most_spills
    row, dots = INSTRUCTION_SETS["amx-int8"], [
        sum(line.startswith("vpdpbusd") for line in loop) // QUADS for loop in innermost_loops(text)
    ]
    assert [number for number in dots if number] == [row.panels_abreast, *row.tile_sizes]
    assert text.count("ldtilecfg") == text.count("tilerelease") == 1


def test_avx_vnni_has_its_256_bit_instruction_and_nothing_of_avx512(tmp_path):
    text = assembly(tmp_path, "avx-vnni", "alderlake", AVX_VNNI, "Q4_1")
    dots = [line for line in text.splitlines() if "vpdpbusd" in line]
    in_loops = [sum("vpdpbusd" in line for line in loop) for loop in innermost_loops(text)]
    row = INSTRUCTION_SETS["avx-vnni"]
    assert [count for count in in_loops if count] == [2 * QUADS * n for n in (row.panels_abreast, *row.tile_sizes)]
    assert all("%ymm" in line for line in dots)
    assert not re.search(r"%zmm|\{1to|%ymm(1[6-9]|[23]\d)", text)
