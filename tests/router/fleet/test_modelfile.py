from pathlib import Path

from router.fleet.modelfile import size_on_disk


def test_a_file_is_as_large_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(bytes(100))
    assert size_on_disk(tmp_path / "a.gguf") == 100
    assert size_on_disk(tmp_path / "absent.gguf") == 0


def test_the_parts_of_a_split_model_count_together_and_nothing_else_does(tmp_path: Path) -> None:
    names = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "m-00001-of-00003.gguf", "n-00002-of-00002.gguf")
    for size, name in zip((1, 10, 100, 1000), names, strict=True):
        (tmp_path / name).write_bytes(bytes(size))
    assert size_on_disk(tmp_path / names[0]) == 11
