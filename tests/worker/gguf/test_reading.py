"""Files as others write them: what is in them comes back."""

import gguf
import numpy as np
import pytest

from tests.fixtures_gguf import byte_level_bpe, write_tiny_llama
from tests.models import smollm2
from tests.worker.gguf.bytewise import GOOD, STRINGS, Tensor, array, file, key, open_bytes, text, u32
from worker.gguf import GGUF
from worker.metadata import ValueType
from worker.quants import dequantize


def test_what_another_writer_wrote_comes_back(path):
    scalars = {
        "uint8": 200, "int8": -100, "uint16": 60000, "int16": -30000, "uint32": 4 << 29, "int32": -(1 << 31),
        "uint64": 1 << 63, "int64": -(1 << 63), "float32": 0.5, "float64": 0.1, "bool": True, "string": "Grüße\n",
    }  # fmt: skip
    arrays = {"strings": ["a", "ü", ""], "ints": [1, -2, 3], "floats": [0.25, 1e30], "bools": [True, False]}
    tensors = {
        "first": np.arange(12, dtype=np.float32).reshape(3, 4),
        "second": np.arange(24, dtype=np.float16).reshape(2, 3, 4),
        "third": np.ones(5, np.float32),
    }
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in scalars.items():
        getattr(writer, f"add_{name}")(f"x.{name}", value)
    for name, value in arrays.items():
        writer.add_array(f"x.{name}", value)
    for name, value in tensors.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with GGUF.open(path) as model:
        assert model.version == 3 and model.size_bytes == path.stat().st_size
        assert model.metadata["general.architecture"] == "llama"
        assert {name: model.metadata[f"x.{name}"] for name in scalars} == scalars
        assert type(model.metadata["x.bool"]) is bool and type(model.metadata["x.uint64"]) is int
        assert model.metadata["x.strings"] == [b"a", "ü".encode(), b""]
        for name in ("ints", "floats", "bools"):
            np.testing.assert_array_equal(model.metadata[f"x.{name}"], np.array(arrays[name], np.float32))
        assert model.metadata["x.bools"].dtype == bool
        assert list(model.tensors) == list(tensors)
        for name, value in tensors.items():
            tensor = model.tensors[name]
            assert tensor.shape == value.shape
            assert tensor.data.tobytes() == value.tobytes()


def test_a_quantised_model_holds_the_tensors_that_the_second_opinion_finds(path):
    write_tiny_llama(path, quant="Q4_1", layers=1)
    expected = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    with GGUF.open(path) as model:
        assert list(model.tensors) == list(expected)
        for name, tensor in model.tensors.items():
            assert tensor.type.id == expected[name].tensor_type
            assert tensor.shape == tuple(reversed(expected[name].shape.tolist()))
            values = gguf.dequantize(expected[name].data, expected[name].tensor_type)
            np.testing.assert_array_equal(dequantize(tensor.type, tensor.data, tensor.shape), values)


def test_the_tokenizer_of_a_tiny_model_is_in_its_metadata(path):
    with GGUF.open(write_tiny_llama(path, vocab_size=300)) as model:
        vocabulary = byte_level_bpe(300)
        assert [token.decode() for token in model.metadata["tokenizer.ggml.tokens"]] == list(vocabulary.tokens)
        assert model.metadata["tokenizer.ggml.token_type"].tolist() == list(vocabulary.types)
        assert model.tensors["token_embd.weight"].shape == (300, 64)


def test_the_real_model_reads_like_the_second_opinion():
    reader = gguf.GGUFReader(smollm2())
    with GGUF.open(smollm2()) as model:
        assert list(model.tensors) == [tensor.name for tensor in reader.tensors]
        for tensor in reader.tensors:
            assert model.tensors[tensor.name].offset == tensor.data_offset
            assert model.tensors[tensor.name].data.nbytes == tensor.n_bytes
        assert model.metadata["tokenizer.ggml.tokens"][1] == b"<|im_start|>"
        assert len(model.metadata["tokenizer.ggml.merges"]) == 48900
        scalars = {name: value for name, value in model.metadata.items() if isinstance(value, int | float | str)}
        assert scalars == {name: reader.fields[name].contents() for name in scalars}


def test_version_two_is_read_like_version_three(path):
    with open_bytes(path, GOOD.replace(u32(3), u32(2), 1)) as model:
        assert model.version == 2
        assert model.tensors["norm"].shape == (2, 4)
        assert model.tensors["norm"].data.view("<f4").tolist() == list(range(8))


def test_strings_that_are_not_utf8_stay_bytes_in_arrays_and_are_mended_alone(path):
    with open_bytes(path, file([STRINGS, key("name", ValueType.STRING, text(b"a\xff"))])) as model:
        assert model.metadata["words"] == [b"a", b"\xff\xfe", b""]
        assert model.metadata["name"] == "a\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("alignment", [1, 8, 64, 4096])
def test_the_alignment_of_the_file_says_where_data_begin(path, alignment):
    keys = [key("general.alignment", ValueType.UINT32, u32(alignment))]
    with open_bytes(path, file(keys, [Tensor()], bytes(range(16)), alignment=alignment)) as model:
        assert model.tensors["weight"].data.tolist() == list(range(16))


def test_tensors_need_not_stand_in_the_order_of_their_data(path):
    with open_bytes(path, file([], [Tensor("b", offset=32), Tensor("a")], bytes(range(48)))) as model:
        assert list(model.tensors) == ["b", "a"]
        assert model.tensors["b"].data[0] == 32


def test_a_file_without_tensors_is_a_vocabulary(path):
    with open_bytes(path, file([STRINGS])) as model:
        assert not model.tensors and model.metadata["words"]


def test_empty_arrays_are_empty(path):
    keys = [key("n", ValueType.ARRAY, array(ValueType.FLOAT32, 0)), key("b", ValueType.ARRAY, array(ValueType.BOOL, 0)),
            key("s", ValueType.ARRAY, array(ValueType.STRING, 0))]  # fmt: skip
    with open_bytes(path, file(keys)) as model:
        assert (len(model.metadata["n"]), len(model.metadata["b"]), model.metadata["s"]) == (0, 0, [])
