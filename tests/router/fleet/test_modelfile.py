import os
from collections.abc import Callable
from pathlib import Path

import pytest

from router.fleet.modelfile import contents_of, size_on_disk, unless_changed


def test_a_file_is_as_large_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(bytes(100))
    assert size_on_disk(tmp_path / "a.gguf") == 100
    assert size_on_disk(tmp_path / "absent.gguf") == 0


def test_the_parts_of_a_split_model_count_together_and_nothing_else_does(tmp_path: Path) -> None:
    names = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "m-00001-of-00003.gguf", "n-00002-of-00002.gguf")
    for size, name in zip((1, 10, 100, 1000), names, strict=True):
        (tmp_path / name).write_bytes(bytes(size))
    assert size_on_disk(tmp_path / names[0]) == 11


def renamed_over(file: Path) -> None:
    other = file.with_name("other.gguf")
    other.write_bytes(bytes(file.stat().st_size))
    os.utime(other, ns=(0, file.stat().st_mtime_ns))
    other.replace(file)


def rewritten(file: Path) -> None:
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))


def removed(file: Path) -> None:
    file.unlink()


CHANGES = pytest.mark.parametrize("change", [renamed_over, rewritten, removed])


@CHANGES
@pytest.mark.parametrize("name", ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "draft.gguf"])
def test_a_model_is_another_one_when_any_of_its_files_is(
    tmp_path: Path, change: Callable[[Path], None], name: str
) -> None:
    for each in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "draft.gguf", "n.gguf"):
        (tmp_path / each).write_bytes(b"GGUF")
    arguments = ("--model-draft", str(tmp_path / "draft.gguf"), "--ctx-size", "7")
    before = contents_of(tmp_path / "m-00001-of-00002.gguf", arguments)
    rewritten(tmp_path / "n.gguf")
    assert contents_of(tmp_path / "m-00001-of-00002.gguf", arguments) == before
    change(tmp_path / name)
    assert contents_of(tmp_path / "m-00001-of-00002.gguf", arguments) != before


def test_what_was_loaded_while_it_changed_is_like_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    before = contents_of(file)
    assert unless_changed(before, lambda: contents_of(file)) == before
    renamed_over(file)
    loaded = unless_changed(before, lambda: contents_of(file))
    assert loaded not in (before, contents_of(file), unless_changed(before, lambda: contents_of(file)))
