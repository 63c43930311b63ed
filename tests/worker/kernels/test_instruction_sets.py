"""The table of instruction sets, and which row of it is in force."""

import pytest

from worker.errors import UnsupportedModel
from worker.kernels.instruction_sets import INSTRUCTION_SETS, choose

AVX2 = frozenset({"avx2", "fma", "f16c"})


def test_the_first_usable_instruction_set_of_the_table_is_chosen():
    everything = frozenset().union(*(row.features for row in INSTRUCTION_SETS.values()))
    assert choose("", everything).name == "amx-int8"
    assert choose("", everything - {"amx-tile"}).name == "avx512-vnni"
    assert choose("", AVX2 | {"avx512f"}).name == "avx2"
    assert choose("", AVX2 | {"avxvnni"}).name == "avx-vnni"
    assert choose("", frozenset()).name == "portable"


def test_a_wanted_instruction_set_is_taken_if_the_processor_has_it():
    assert choose("portable", AVX2).name == "portable"
    for wanted in ("avx512-vnni", "neon"):
        with pytest.raises(UnsupportedModel, match=f"CORRAL_ISA='{wanted}'.*usable: avx2, portable$"):
            choose(wanted, AVX2)


def test_tiles_go_from_large_to_a_single_token():
    for row in INSTRUCTION_SETS.values():
        assert list(row.tile_sizes) == sorted(set(row.tile_sizes), reverse=True)
        assert row.tile_sizes[-1] == 1
