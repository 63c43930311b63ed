"""The file of packed weights where it is damaged, shared, locked, or cannot be written."""

import errno
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker.model.packing import Packing, only_file
from worker.gguf import GGUF
from worker.model.weights import PackedWeights, pack_weights


def test_only_the_user_can_read_what_is_written(model, folder):
    Packing(model, folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(folder).stat().st_mode) == 0o600


def damage_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(3)
        file.write(b"?")


def flip_bit(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def lose_page(path: Path, number: int) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * number)
        file.write(bytes(4096))


def another_version(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"version": ', b'"version": 9', 1)[: len(data)])


DAMAGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 4096),
    "empty": lambda path: os.truncate(path, 0),
    "header": damage_header,
    "one bit": lambda path: flip_bit(path, path.stat().st_size // 2),
    "last bit": lambda path: flip_bit(path, path.stat().st_size - 1),
    "a lost page": lambda path: lose_page(path, path.stat().st_size // 4096 // 2),
    "never finished": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "other version": another_version,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_file_that_is_not_whole_is_written_again(model, folder, damage):
    first = Packing(model, folder)
    damage(only_file(folder))
    again = Packing(model, folder)
    assert again.packed and again.tensors == first.tensors
    assert not Packing(model, folder).packed


def test_a_folder_that_cannot_be_used_gives_memory_and_one_warning(model, folder, tmp_path, capfd):
    expected = Packing(model, folder)
    (tmp_path / "file").touch()
    in_memory = Packing(model, tmp_path / "file" / "panels")
    warning = capfd.readouterr().err
    assert in_memory.packed and in_memory.tensors == expected.tensors
    assert warning.startswith("warning: packed weights stay in memory: ") and warning.count("\n") == 1
    assert str(tmp_path / "file") in warning and os.strerror(errno.ENOTDIR) in warning


def test_a_full_disk_gives_memory_and_one_warning_and_leaves_nothing_behind(model, folder, monkeypatch, capfd):
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert Packing(model, folder).packed
    assert capfd.readouterr().err.count(os.strerror(errno.ENOSPC)) == 1
    assert not [p for p in folder.iterdir() if p.suffix != ".name" and p.name != "lock"]


def test_no_folder_means_memory_without_a_word(model, folder, capfd):
    assert Packing(model, None).tensors == Packing(model, folder).tensors
    assert not capfd.readouterr().err


def test_packing_that_is_interrupted_leaves_nothing_behind(model, folder):
    def interrupt(done: float) -> None:
        if done > 0.5:
            raise KeyboardInterrupt

    with GGUF.open(model) as gguf, pytest.raises(KeyboardInterrupt):
        pack_weights(gguf, folder, interrupt)
    assert not [p for p in folder.iterdir() if p.suffix != ".name" and p.name != "lock"]
    assert Packing(model, folder).packed


def test_weights_that_are_not_mapped_are_the_same_bytes_in_memory_of_their_own(model, folder):
    expected = Packing(model, folder)
    copied = Packing(model, folder, mapped=False)
    assert not copied.packed and copied.tensors == expected.tensors
    with GGUF.open(model) as gguf:
        weights = pack_weights(gguf, folder, lambda done: None, mapped=False)
    only_file(folder).unlink()
    assert "/model" not in mapping_of(weights) and str(folder) not in mapping_of(weights)
    weights.close()


def mapping_of(weights: PackedWeights) -> str:
    """What /proc/self/maps says of the memory that the weights lie in."""
    address = weights._view.ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= address < last:
            return line
    raise AssertionError("not mapped")


def test_mapped_weights_lie_in_the_file_that_replicas_share(model, folder):
    with GGUF.open(model) as gguf:
        weights = pack_weights(gguf, folder, lambda done: None)
    assert str(only_file(folder)) in mapping_of(weights)
    weights.close()


def refuse_to_write(path: Path, text: str) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


LOCKED = """
import resource, sys
from pathlib import Path
from worker.gguf import GGUF
from worker.model.weights import pack_weights
with GGUF.open(Path(sys.argv[1])) as gguf:
    weights = pack_weights(gguf, None, lambda done: None)
weights.lock()
print(Path("/proc/self/status").read_text().partition("VmLck:")[2].split()[0])
"""


def test_locked_weights_stay_in_memory_or_a_warning_tells_the_limit(model):
    done = subprocess.run([sys.executable, "-c", LOCKED, model], capture_output=True, text=True, check=True)
    if done.stderr:  # the user may lock less than the model is large
        assert done.stderr.startswith("warning: the weights (") and done.stderr.count("\n") == 1
        assert f"the limit is {resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]} bytes" in done.stderr
    else:
        assert int(done.stdout) * 1024 >= model.stat().st_size


def test_weights_that_cannot_be_locked_are_used_nevertheless_with_one_warning(model, folder, capfd):
    with GGUF.open(model) as gguf:
        weights = pack_weights(gguf, folder, lambda done: None)
    only_file(folder).write_bytes(b"")  # pages behind the end of a file cannot be locked
    weights.lock()
    warning = capfd.readouterr().err
    assert warning.startswith(f"warning: the weights ({weights.num_bytes} bytes) are not locked in memory: ")
    assert f"limit is {resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]} bytes" in warning and warning.count("\n") == 1
    weights.close()


def test_weights_are_used_from_a_folder_that_cannot_remember_their_name(model, folder, monkeypatch, capfd):
    Packing(model, folder)
    (name,) = folder.glob("*.name")
    name.unlink()
    monkeypatch.setattr(Path, "write_text", refuse_to_write)
    assert not Packing(model, folder).packed
    assert not capfd.readouterr().err


PACK = """
import sys
from pathlib import Path
from worker.gguf import GGUF
from worker.model.weights import pack_weights
print("ready", flush=True)
sys.stdin.readline()
reports = []
with GGUF.open(Path(sys.argv[1])) as gguf:
    weights = pack_weights(gguf, Path(sys.argv[2]), reports.append)
    print(bool(reports), weights.vector("output_norm.weight").sum(), weights.num_bytes)
"""


def test_of_two_processes_at_once_one_packs_and_both_get_the_weights(model, folder):
    processes = [
        subprocess.Popen([sys.executable, "-c", PACK, model, folder], text=True, stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate() for process in processes]
    (first, first_facts), (second, second_facts) = (answer.split(maxsplit=1) for answer, _ in answers)
    assert {first, second} == {"True", "False"} and first_facts == second_facts
    assert not any(errors for _, errors in answers)
    assert only_file(folder).suffix == ".panels"
    assert not Packing(model, folder).packed
