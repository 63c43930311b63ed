"""How kernels call one another, and where their machine code is kept."""

import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numba import types
from numba.core.errors import NumbaError

from tests.worker.kernels.callers import compiled
from worker.kernels import jit
from worker.kernels.jit import call, entry, native
from worker.kernels.memory import store_scalar, store_scalar_i32


@native("iffi")
def write_arguments(out, first, second, number):
    store_scalar(out, first)
    store_scalar(out + 4, second)
    store_scalar_i32(out + 8, np.int32(number))


@entry(types.void(types.int64, types.int64))
def call_at_address(address, out):
    call(address, (out, np.float32(0.5), np.float32(-3), np.int64(77)))


@entry(types.void(types.int64))
def call_with_double(address):
    call(address, (np.int64(0), 0.5))


def test_a_native_gets_its_arguments_in_order():
    write_arguments.compile()
    out = np.zeros(3, np.float32)
    compiled(call_at_address)(write_arguments.address, out.ctypes.data)
    assert out[0] == 0.5 and out[1] == -3 and out.view(np.int32)[2] == 77


def test_a_call_with_what_no_native_takes_does_not_compile():
    with pytest.raises(NumbaError):
        call_with_double.compile()


def kernel_folder(tmp_path, **environment: str) -> str:
    code = "import numba, worker.kernels.jit; print(numba.core.config.CACHE_DIR)"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True,
                            env=os.environ | {"CORRAL_CACHE": str(tmp_path)} | environment)  # fmt: skip
    return result.stdout.strip()


def test_machine_code_is_kept_in_a_private_folder_for_each_instruction_set(tmp_path):
    chosen, portable = kernel_folder(tmp_path), kernel_folder(tmp_path, CORRAL_ISA="portable")
    assert chosen != portable
    for folder in (chosen, portable):
        assert folder.startswith(str(tmp_path / "kernels"))
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert kernel_folder(tmp_path) == chosen


def test_machine_code_is_kept_apart_for_every_change_of_what_it_is_made_from(tmp_path):
    worker = Path(jit.__file__).parent.parent
    shutil.copytree(worker, tmp_path / "worker")
    folders = {kernel_folder(tmp_path, PYTHONPATH=str(tmp_path))}
    for source in ("kernels/llvm.py", "kernels/lowerings/avx2.py", "model/forward.py"):
        with (tmp_path / "worker" / source).open("a") as file:
            file.write("# changed\n")
        folders.add(kernel_folder(tmp_path, PYTHONPATH=str(tmp_path)))
    assert len(folders) == 4


def somebody_waits_for(path: Path) -> bool:
    """Whether a process, or a thread of one, is blocked by the lock of a file."""
    waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" in line]
    return any(fields[6].split(":")[-1] == str(path.stat().st_ino) for fields in waiting)


def test_machine_code_is_saved_by_one_process_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(jit, "CACHE", tmp_path)
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))

    @native("i")
    def write_one(out):
        store_scalar_i32(out, np.int32(1))

    with ThreadPoolExecutor() as pool:
        with jit.locked(tmp_path / jit.SAVING):
            compiling = pool.submit(write_one.compile)
            while not somebody_waits_for(tmp_path / jit.SAVING):
                assert not compiling.done()
            assert not list(tmp_path.rglob("*.nbi"))
        compiling.result()
    assert len(list(tmp_path.rglob("*.nbi"))) == 1


FULL_DISK = """
import resource
import numpy as np
from tests.worker.kernels.test_jit import call_at_address, write_arguments
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_arguments.compile()
call_at_address.compile()
out = np.zeros(3, np.float32)
call_at_address(write_arguments.address, out.ctypes.data)
print(out[0])
"""


def run(code: str, cache) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"CORRAL_CACHE": str(cache)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)


def test_a_disk_that_fills_up_while_compiling_costs_one_warning_and_no_kernel(tmp_path):
    done = run(FULL_DISK, tmp_path)
    assert done.stdout == "0.5\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"warning: some kernels are compiled at every start: {tmp_path}")


def test_a_folder_that_cannot_be_written_costs_one_warning_and_no_kernel(tmp_path):
    (tmp_path / "file").touch()
    done = run(FULL_DISK.replace("resource.setrlimit", "#"), tmp_path / "file")
    assert done.stdout == "0.5\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"warning: kernels are compiled at every start: {tmp_path}/file")
