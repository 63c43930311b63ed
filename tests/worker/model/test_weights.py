"""What packed weights hold, and which file they are in."""

from dataclasses import replace

import numpy as np
import pytest

from tests.fixtures_gguf import write_tiny_llama
from tests.tiny_models import MODELS, write_model
from tests.worker.model.packing import Packing, only_file
from worker.errors import GGUFError, UnsupportedModel
from worker.gguf import GGUF
from worker.kernels import panels
from worker.model.weights import pack_weights
from worker.quants import dequantize


def test_the_file_is_written_once_and_then_mapped(model, folder):
    first = Packing(model, folder)
    written = only_file(folder).stat()
    second = Packing(model, folder)
    again = only_file(folder).stat()
    assert first.packed and not second.packed
    assert first.reports == sorted(first.reports) and first.reports[-1] == 1.0
    assert (written.st_ino, written.st_mtime_ns) == (again.st_ino, again.st_mtime_ns)
    assert first.tensors == second.tensors


def test_panels_hold_the_tensors_of_the_file(model, folder):
    packed = Packing(model, folder).tensors
    with GGUF.open(model) as gguf:
        assert packed.keys() == gguf.tensors.keys()
        for name, tensor in gguf.tensors.items():
            if len(tensor.shape) == 1:
                assert packed[name] == dequantize(tensor.type, tensor.data, tensor.shape).tobytes()
            else:
                format = panels.FORMATS[tensor.type.name]
                expected = np.zeros(format.matrix_bytes(*tensor.shape), np.uint8)
                panels.pack(format, tensor.data.view(tensor.type.dtype).reshape(tensor.shape[0], -1), expected)
                assert packed[name] == expected.tobytes()


@pytest.mark.parametrize("quant", ["Q8_0", "F16"])
def test_the_matrices_of_experts_lie_one_behind_the_other_each_in_whole_panels(folder, tmp_path, quant):
    experts = replace(MODELS["mixtral"], feed_forward=32, width=32)
    model = write_model(tmp_path / "model.gguf", experts, quant)
    packed = Packing(model, folder).tensors
    with GGUF.open(model) as gguf:
        for name in ("blk.0.ffn_gate_exps.weight", "blk.1.ffn_down_exps.weight"):
            tensor, expected = gguf.tensors[name], b""
            for blocks in tensor.data.view(tensor.type.dtype).reshape(8, 32, -1):
                matrix = np.zeros(panels.FORMATS[quant].matrix_bytes(32, 32), np.uint8)
                panels.pack(panels.FORMATS[quant], blocks, matrix)
                expected += matrix.tobytes()
            assert packed[name] == expected


def test_a_tensor_of_four_dimensions_is_refused(model, folder):
    with GGUF.open(model) as gguf:
        object.__setattr__(gguf.tensors["blk.0.attn_q.weight"], "shape", (2, 2, 16, 64))
        with pytest.raises(GGUFError, match=r"^tensor blk.0.attn_q.weight has 4 dimensions, expected 1 to 3$"):
            pack_weights(gguf, folder, lambda done: None)


def test_a_model_in_parts_packs_the_tensors_of_the_whole(model, folder, tmp_path):
    parts = write_tiny_llama(tmp_path / "parts.gguf", tensors_per_part=4)
    assert Packing(parts, folder).tensors == Packing(model, folder).tensors


def test_another_model_has_another_file(model, folder, tmp_path):
    Packing(model, folder)
    other = Packing(write_tiny_llama(tmp_path / "other.gguf", seed=1), folder)
    assert other.packed and len(list(folder.glob("*.panels"))) == 2


def test_a_model_that_differs_in_one_byte_has_another_file(model, folder, tmp_path):
    first = Packing(model, folder)
    retrained = bytearray(model.read_bytes())
    with GGUF.open(model) as gguf:
        retrained[gguf.tensors["token_embd.weight"].offset + 2] ^= 1  # the first code of the first row
    other = tmp_path / "other.gguf"
    other.write_bytes(retrained)
    second = Packing(other, folder)
    assert second.packed and second.tensors != first.tensors


def test_a_copy_of_the_model_shares_its_file(model, folder, tmp_path):
    Packing(model, folder)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(model.read_bytes())
    assert not Packing(copy, folder).packed
    only_file(folder)


def test_a_model_changed_in_place_is_packed_again(model, folder):
    before = Packing(model, folder)
    write_tiny_llama(model, seed=1)
    after = Packing(model, folder)
    assert after.packed and after.tensors != before.tensors


def test_mapped_weights_cannot_be_written(model, folder):
    for _ in range(2):  # by the process that packed them, and by one that found them
        with GGUF.open(model) as gguf:
            weights = pack_weights(gguf, folder, lambda done: None)
        with pytest.raises(ValueError, match="read-only"):
            weights.vector("output_norm.weight")[0] = 1
        weights.close()


def test_vectors_must_be_of_f32(tmp_path, folder):
    path = write_tiny_llama(tmp_path / "model.gguf")
    with GGUF.open(path) as gguf:
        tensor = gguf.tensors["output_norm.weight"]
        object.__setattr__(tensor, "type", gguf.tensors["token_embd.weight"].type)
        with pytest.raises(GGUFError, match=r"^tensor output_norm.weight is a vector of Q8_0, expected F32$"):
            pack_weights(gguf, folder, lambda done: None)


def test_a_type_without_kernel_is_refused_by_name(model, folder, monkeypatch):
    monkeypatch.delitem(panels.FORMATS, "Q4_1")
    message = r"^tensor blk.0.attn_q.weight has type Q4_1, "
    with GGUF.open(model) as gguf, pytest.raises(UnsupportedModel, match=message):
        pack_weights(gguf, folder, lambda done: None)
    assert not folder.exists()
