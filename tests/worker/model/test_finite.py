"""Weights that are no numbers, of every type, are found and named by their place."""

import math

import numpy as np
import pytest

from tests.fixtures_gguf import write_tiny_llama
from worker.errors import GGUFError
from worker.gguf import GGUF
from worker.model.finite import check_finite
from worker.quants import BY_NAME

SCALES = ("d", "m", "dmin", "e")


class OneTensor:
    """What check_finite needs of a file."""

    def __init__(self, name: str, rows: int = 3) -> None:
        kind = BY_NAME[name]
        self.blocks = np.zeros((rows, 2), kind.dtype)
        shape = (rows, 2 * kind.block_length)
        self.tensors = {"blk.0.ffn_up.weight": self}
        self.name, self.type, self.shape = "blk.0.ffn_up.weight", kind, shape

    @property
    def data(self) -> np.ndarray:
        return self.blocks.reshape(-1).view(np.uint8)

    def release(self, tensor) -> None:
        pass


def fields() -> list[tuple[str, str]]:
    """(type, field) of every number in a block."""
    return [
        (kind.name, field)
        for kind in BY_NAME.values()
        for field in (kind.dtype.names or ("",))
        if field in SCALES or not field
    ]


@pytest.mark.parametrize(("name", "field"), fields(), ids="-".join)
def test_a_block_without_a_number_is_found_in_every_field_of_every_type(name, field):
    tensor = OneTensor(name)
    check_finite(tensor)
    target = tensor.blocks[field] if field else tensor.blocks
    target[2, 1] = {"BF16": 0xFF80, "MXFP4": 0xFF}.get(name, math.inf)
    with pytest.raises(GGUFError) as caught:
        check_finite(tensor)
    place = f"[2, {tensor.type.block_length}]"
    assert str(caught.value).startswith(f"tensor blk.0.ffn_up.weight ({name}): the ")
    assert place in str(caught.value) and (not field or f"'{field}'" in str(caught.value))


def test_every_type_has_a_number_that_is_checked():
    assert {name for name, _ in fields()} == set(BY_NAME)


def test_a_sound_file_passes(tmp_path):
    with GGUF.open(write_tiny_llama(tmp_path / "model.gguf")) as gguf:
        check_finite(gguf)
