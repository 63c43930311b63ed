"""Models in several files."""

from pathlib import Path

import pytest

from tests.fixtures_gguf import write_tiny_llama
from tests.worker.gguf.bytewise import Tensor, file, open_bytes, resident_bytes, split_keys
from worker.errors import GGUFError
from worker.gguf import GGUF


@pytest.fixture
def first_part(tmp_path):
    return write_tiny_llama(tmp_path / "split.gguf", tensors_per_part=8)


def part(first: Path, number: int, count: int = 3) -> Path:
    return first.with_name(f"split-{number:05}-of-{count:05}.gguf")


def test_the_parts_of_a_split_model_read_like_one_file(tmp_path, first_part):
    whole = write_tiny_llama(tmp_path / "whole.gguf")
    with GGUF.open(first_part) as split, GGUF.open(whole) as one:
        assert part(first_part, 3).exists()
        assert list(split.tensors) == list(one.tensors)
        for name, tensor in split.tensors.items():
            assert tensor.shape == one.tensors[name].shape
            assert tensor.data.tobytes() == one.tensors[name].data.tobytes()
            split.release(tensor)
        assert split.metadata["llama.block_count"] == 2
        assert split.size_bytes == sum(part(first_part, number).stat().st_size for number in (1, 2, 3))


def test_a_tensor_is_released_in_its_own_part(first_part):
    with GGUF.open(first_part) as model:
        for tensor in model.tensors.values():
            tensor.data.sum()
        for tensor in model.tensors.values():
            if tensor.part == 1:
                model.release(tensor)
        assert [resident_bytes(part(first_part, number)) > 0 for number in (1, 2, 3)] == [True, False, True]


def test_a_missing_part_is_named(first_part):
    part(first_part, 2).unlink()
    with pytest.raises(GGUFError, match=r"part 2 of 3 is missing: .*split-00002-of-00003\.gguf"):
        GGUF.open(first_part)


def test_a_model_is_opened_by_its_first_part(first_part):
    with pytest.raises(GGUFError, match=r"part 2 of 3 of a model; open the first, split-00001-of-00003\.gguf"):
        GGUF.open(part(first_part, 2))


def test_a_renamed_first_part_says_how_it_must_be_named(first_part):
    renamed = first_part.rename(first_part.with_name("renamed.gguf"))
    with pytest.raises(GGUFError, match=r"part of a model of 3 files, but not named NAME-00001-of-00003\.gguf"):
        GGUF.open(renamed)


def test_a_first_part_under_the_name_of_the_second_is_refused(first_part):
    with pytest.raises(GGUFError, match=r"open the first, split-00001-of-00003\.gguf"):
        GGUF.open(first_part.replace(part(first_part, 2)))


def test_a_part_in_the_place_of_another_is_refused(first_part):
    part(first_part, 2).write_bytes(part(first_part, 3).read_bytes())
    with pytest.raises(GGUFError, match=r"split-00002-of-00003\.gguf: says it is part 3 of 3, not 2 of 3"):
        GGUF.open(first_part)


def test_a_damaged_part_is_named(first_part):
    damaged = part(first_part, 3)
    damaged.write_bytes(damaged.read_bytes()[:-200])
    with pytest.raises(GGUFError, match=r"split-00003-of-00003\.gguf: .*cut short \(at byte"):
        GGUF.open(first_part)


@pytest.mark.parametrize(
    ("names", "num_tensors", "expected"),
    [
        (("a", "b"), 3, "the 2 parts hold 2 tensors, not 3"),
        (("a", "a"), 2, "tensor 'a' is also in another part"),
        (("a", "b"), -1, "split.tensors.count is -1, not a count"),
    ],
)
def test_the_parts_together_must_hold_each_tensor_once(tmp_path, names, num_tensors, expected):
    for number, name in enumerate(names):
        content = file(split_keys(number, 2, num_tensors), [Tensor(name)], bytes(32))
        (tmp_path / f"m-{number + 1:05}-of-00002.gguf").write_bytes(content)
    with pytest.raises(GGUFError, match=expected):
        GGUF.open(tmp_path / "m-00001-of-00002.gguf")


def test_a_model_in_a_single_part_is_one_file(tmp_path):
    with open_bytes(tmp_path / "m.gguf", file(split_keys(0, 1, 1), [Tensor("a")], bytes(32))) as model:
        assert list(model.tensors) == ["a"]
