"""A model's bytes stay in the file: what is mapped, released and closed."""

import os

import numpy as np
import pytest

from tests.worker.gguf.bytewise import (
    GOOD,
    MEBIBYTE,
    Tensor,
    array,
    file,
    key,
    open_bytes,
    refusal,
    resident_bytes,
    text,
)
from worker.metadata import ValueType


def test_tensors_cannot_be_written_to(path):
    with open_bytes(path, GOOD) as model, pytest.raises(ValueError, match="read-only"):
        model.tensors["norm"].data[0] = 1


def test_metadata_and_kept_tensors_outlive_the_open_model(path):
    with open_bytes(path, GOOD) as model:
        metadata, norm = model.metadata, model.tensors["norm"]
    assert not model.tensors
    assert metadata["numbers"].tolist() == [-1, 2]
    assert norm.data.view("<f4").tolist() == list(range(8))


def test_a_released_tensor_leaves_memory_without_the_others_and_can_be_read_again(path):
    numbers = np.arange(MEBIBYTE, dtype=np.float32)
    tensors = [Tensor("a", [numbers.size]), Tensor("b", [numbers.size], offset=numbers.nbytes)]
    with open_bytes(path, file([], tensors, numbers.tobytes() * 2)) as model:
        for tensor in model.tensors.values():
            tensor.data.sum()
        assert resident_bytes(path) >= 2 * numbers.nbytes
        model.release(model.tensors["b"])
        assert resident_bytes(path) == pytest.approx(numbers.nbytes, rel=0.1)
        np.testing.assert_array_equal(model.tensors["b"].data.view(np.float32), numbers)


def test_opening_keeps_no_part_of_the_file_in_memory(path):
    words = b"".join(text(b"word") for _ in range(MEBIBYTE // 12))
    with open_bytes(path, file([key("words", ValueType.ARRAY, array(ValueType.STRING, MEBIBYTE // 12, words))])):
        assert resident_bytes(path) == 0


def test_a_file_replaced_by_renaming_stays_as_it_was_opened(path, tmp_path):
    with open_bytes(path, GOOD) as model:
        other = tmp_path / "other"
        other.write_bytes(b"x")
        other.rename(path)
        assert model.tensors["norm"].data.view("<f4").tolist() == list(range(8))


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_neither_closed_nor_refused_files_stay_open(path):
    before = open_descriptors()
    for _ in range(20):
        open_bytes(path, GOOD).close()
        refusal(path, GOOD[:-60])
        refusal(path, GOOD[:40])
    assert open_descriptors() == before
