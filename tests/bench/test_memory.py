"""What the system's words about mappings come to."""

import pytest

from bench.memory import Usage, as_markdown, read_smaps

SMAPS = """\
7f0000000000-7f0000100000 r--s 00000000 fe:00 11 /cache/panels/weights.panels
Size:               1024 kB
Pss:                 512 kB
Private_Clean:         0 kB
Private_Dirty:         0 kB
7f0000200000-7f0000400000 rw-s 00000000 00:01 12 /dev/zero (deleted)
Size:               2048 kB
Pss:                 300 kB
Private_Clean:         0 kB
Private_Dirty:       300 kB
7f0000500000-7f0000580000 rw-s 00000000 00:01 13 /dev/zero (deleted)
Size:                512 kB
Pss:                 100 kB
Private_Clean:         4 kB
Private_Dirty:       100 kB
VmFlags: rd wr
""".splitlines()

KIB, MIB = 1 << 10, 1 << 20


def test_keys_and_values_are_the_largest_memory_without_a_file() -> None:
    assert read_smaps("m", SMAPS) == Usage("m", proportional=912 * KIB, private=404 * KIB, cache=300 * KIB)


def test_ratios_are_to_the_fewest_replicas_and_without_keys_and_values() -> None:
    nursery = Usage("corral-nursery", 40 * MIB, 10 * MIB, 0)
    one = [nursery, Usage("corral-worker", 80 * MIB, 40 * MIB, 20 * MIB)]
    two = [nursery, *[Usage("corral-worker", 60 * MIB, 40 * MIB, 20 * MIB)] * 2]
    *_, first, second = as_markdown({1: one, 2: two}).splitlines()
    assert first == "| 1 | 100 | 1.00 | 20 | 10 | 20 |"
    assert second == "| 2 | 120 | 1.20 | 20 | 10 | 40 |"


@pytest.mark.parametrize("rights", ["rw-p", "r--s"])
def test_other_memory_is_not_taken_for_keys_and_values(rights: str) -> None:
    assert read_smaps("m", [line.replace("rw-s", rights) for line in SMAPS]).cache == 0
