"""What a worker does to itself as a process."""

import gc
from pathlib import Path

import llvmlite.binding

from worker.process import forget_library, settle


def resident_kilobytes(library: str) -> int:
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first and not first.endswith(":"):
            inside = library in line and rest[0] == "r-xp"
        elif inside and first == "Rss:":
            total += int(rest[0])
    return total


def test_a_forgotten_library_gives_its_pages_back_and_still_works():
    llvmlite.binding.get_host_cpu_name()
    before = resident_kilobytes("libllvmlite")
    forget_library("libllvmlite")
    assert resident_kilobytes("libllvmlite") < before / 4
    assert llvmlite.binding.get_host_cpu_name()


def test_garbage_is_collected_again_once_everything_is_loaded():
    gc.disable()
    try:
        settle()
        assert gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
