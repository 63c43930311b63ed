"""Files as others write them, files cut short, files made to deceive: a model that can be read, or one clear line."""

import os
import struct
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures_gguf import byte_level_bpe, write_tiny_llama
from tests.models import smollm2
from worker.errors import GGUFError, ModelFileError, UnsupportedModel
from worker.gguf import GGUF, ValueType
from worker.quants import TYPES, dequantize

F32, F16, Q4_1 = 0, 1, 3
MEBIBYTE = 1 << 20


# -- files byte by byte, so that each number in them can be wrong --


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return u64(len(raw)) + raw


def key(name: str | bytes, type: int, value: bytes) -> bytes:
    return text(name) + u32(type) + value


def array(type: int, count: int, values: bytes = b"") -> bytes:
    return u32(type) + u64(count) + values


@dataclass(frozen=True)
class Tensor:
    name: str | bytes = "weight"
    shape: Sequence[int] = (4,)  # in the file's order
    type: int = F32
    offset: int = 0
    num_dimensions: int | None = None

    def entry(self) -> bytes:
        num_dimensions = len(self.shape) if self.num_dimensions is None else self.num_dimensions
        dimensions = b"".join(u64(length) for length in self.shape)
        return text(self.name) + u32(num_dimensions) + dimensions + u32(self.type) + u64(self.offset)


def file(
    keys: Sequence[bytes] = (),
    tensors: Sequence[Tensor] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: bytes = u32(3),
    num_tensors: int | None = None,
    num_keys: int | None = None,
    alignment: int = 32,
) -> bytes:
    num_tensors = len(tensors) if num_tensors is None else num_tensors
    num_keys = len(keys) if num_keys is None else num_keys
    head = magic + version + u64(num_tensors) + u64(num_keys) + b"".join(keys)
    head += b"".join(tensor.entry() for tensor in tensors)
    return head + bytes(-len(head) % alignment) + data


STRINGS = key("words", ValueType.ARRAY, array(ValueType.STRING, 3, text("a") + text(b"\xff\xfe") + text("")))
NUMBERS = key("numbers", ValueType.ARRAY, array(ValueType.INT32, 2, struct.pack("<2i", -1, 2)))
NAME = key("general.name", ValueType.STRING, text("tiny"))
DATA = np.arange(8, dtype="<f4").tobytes() + bytes(20)
GOOD = file([NAME, STRINGS, NUMBERS], [Tensor("norm", (4, 2)), Tensor("blk", (32,), Q4_1, 32)], DATA)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


def open_bytes(path: Path, content: bytes) -> GGUF:
    path.write_bytes(content)
    return GGUF.open(path)


def refusal(path: Path, content: bytes, error: type[ModelFileError] = GGUFError) -> str:
    """The message with which these bytes are refused: one line that begins with the file's path."""
    path.write_bytes(content)
    with pytest.raises(error) as caught:
        GGUF.open(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < len(str(path)) + 500
    return message


# -- what is in a good file --


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


# -- the mapping --


def test_tensors_cannot_be_written_to(path):
    with open_bytes(path, GOOD) as model, pytest.raises(ValueError, match="read-only"):
        model.tensors["norm"].data[0] = 1


def test_metadata_and_kept_tensors_outlive_the_open_model(path):
    with open_bytes(path, GOOD) as model:
        metadata, norm = model.metadata, model.tensors["norm"]
    assert not model.tensors
    assert metadata["numbers"].tolist() == [-1, 2]
    assert norm.data.view("<f4").tolist() == list(range(8))


def resident_bytes(path: Path) -> int:
    """How much of this file, mapped once, is in this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    next(line for line in lines if line.endswith(str(path)))
    return 1024 * int(next(line for line in lines if line.startswith("Rss:")).split()[1])


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


# -- refused before anything is read --


def test_an_absent_file_is_named(path):
    with pytest.raises(GGUFError, match=r"model\.gguf: cannot be read: No such file or directory"):
        GGUF.open(path)


def test_a_folder_and_a_pipe_are_not_files(tmp_path, path):
    with pytest.raises(GGUFError, match="not a regular file"):
        GGUF.open(tmp_path)
    os.mkfifo(path)
    with pytest.raises(GGUFError, match="not a regular file"):
        GGUF.open(path)


def test_an_empty_file_is_refused(path):
    assert "empty, 0 bytes" in refusal(path, b"")


def test_another_kind_of_file_is_refused_by_its_first_bytes(path):
    assert r"begins with b'PK\x03\x04', not b'GGUF' (at byte 0)" in refusal(path, b"PK\3\4" + bytes(100))


@pytest.mark.parametrize("version", [0, 1, 4, 1 << 31])
def test_other_versions_are_refused_by_number(path, version):
    message = refusal(path, file(version=u32(version)))
    assert str(version) in message or hex(version) in message
    assert "(at byte 4)" in message


def test_big_endian_files_are_called_that(path):
    assert "big-endian" in refusal(path, file(version=struct.pack(">I", 3)))


# -- cut short --


def test_a_file_cut_at_any_byte_is_refused_with_an_offset(path):
    """Every boundary of the structure, and everything between."""
    with open_bytes(path, GOOD) as model:
        assert len(model.tensors) == 2
    for length in range(1, len(GOOD)):
        assert "(at byte " in refusal(path, GOOD[:length])


def test_a_message_says_how_much_is_missing(path):
    message = refusal(path, GOOD[:-7])
    assert f"tensor 'blk' ends at byte {len(GOOD)}, the file at {len(GOOD) - 7}" in message


def test_a_real_layout_cut_between_its_parts_is_refused(path):
    write_tiny_llama(path, layers=1)
    whole = path.read_bytes()
    with GGUF.open(path) as model:
        ends = [tensor.offset + tensor.data.nbytes for tensor in model.tensors.values()]
        cuts = [4, 8, 16, 24, min(tensor.offset for tensor in model.tensors.values()), *ends[:-1], max(ends) - 1]
    for cut in cuts:
        refusal(path, whole[:cut])


# -- made to deceive --

ARRAY, STRING, U32, BOOL = ValueType.ARRAY, ValueType.STRING, ValueType.UINT32, ValueType.BOOL

DECEPTIONS: dict[str, tuple[bytes, str]] = {
    "tensors beyond counting": (file(num_tensors=1 << 63), f"{1 << 63} tensors cannot fit into 16 bytes (at byte 8)"),
    "keys beyond counting": (file(num_keys=(1 << 64) - 1), f"{(1 << 64) - 1} metadata keys cannot fit"),
    "more keys than there are": (file([NAME], num_keys=2), "metadata key 1 of 2"),
    "a key as long as the universe": (
        file([u64(1 << 62) + bytes(64)]),
        f"metadata key 0 of 1 has {1 << 62} bytes, at most 65535",
    ),
    "a key that is too long": (file([key("k" * 65536, BOOL, b"\1")]), "has 65536 bytes"),
    "a key that is not UTF-8": (file([key(b"k\xff", BOOL, b"\1")]), "metadata key 0 of 1 is not UTF-8"),
    "a key twice": (file([NAME, NAME]), "metadata key 'general.name' appears twice (at byte 60)"),
    "an unknown value type": (file([key("k", 13, bytes(8))]), "metadata key 'k' has the unknown value type 13"),
    "a string as long as the universe": (file([key("k", STRING, u64(1 << 62))]), f"{1 << 62} bytes needed"),
    "a string in an array beyond the file": (
        file([key("k", ARRAY, array(STRING, 2, text("a") + u64(1 << 62)))]),
        f"string 1 of 2 of 'k': {1 << 62} bytes needed",
    ),
    "a length cut in an array of strings": (
        file([key("k", ARRAY, array(STRING, 2, text("abcde")))], alignment=1) + bytes(7),
        "length of string 1 of 2 of 'k': 8 bytes needed, 7 left",
    ),
    "more strings than bytes": (file([key("k", ARRAY, array(STRING, 1 << 63))]), f"{1 << 63} strings of 'k'"),
    "a product of array sizes that wraps": (
        file([key("k", ARRAY, array(ValueType.UINT64, (1 << 61) + 1, bytes(8)))]),
        f"{(1 << 61) + 1} elements of 'k' cannot fit",
    ),
    "arrays in arrays": (
        file([key("k", ARRAY, array(ARRAY, 1, array(ARRAY, 1) * 10_000))]),
        "'k' is an array of arrays",
    ),
    "an unknown array type": (file([key("k", ARRAY, array(99, 0))]), "array 'k' has the unknown value type 99"),
    "a bool of two": (file([key("k", BOOL, b"\2")]), "'k' is a bool of value 2"),
    "an array with a bool of two": (file([key("k", ARRAY, array(BOOL, 2, b"\1\2"))]), "bools with a value of 2"),
    "a million dimensions": (file([], [Tensor(num_dimensions=10**6)], bytes(64)), "1000000 dimensions, not 1 to 4"),
    "no dimensions": (file([], [Tensor(shape=[])], bytes(64)), "0 dimensions"),
    "a dimension of zero": (file([], [Tensor(shape=[4, 0])], bytes(64)), "'weight' has a dimension of 0"),
    "dimensions whose product wraps to 0": (file([], [Tensor(shape=[1 << 32] * 4)], bytes(64)), str((4 << 128) + 96)),
    "dimensions whose product wraps to 4": (
        file([], [Tensor(shape=[4, (1 << 62) + 1, 4])], bytes(64)),
        f"ends at byte {96 + 64 * ((1 << 62) + 1)}",
    ),
    "a row of half a block": (file([], [Tensor(shape=[33], type=Q4_1)], bytes(64)), "33 elements is not whole blocks"),
    "a name that is not UTF-8": (file([], [Tensor(b"\xc3")], bytes(64)), "name of tensor 0 of 1 is not UTF-8"),
    "a tensor twice": (file([], [Tensor(), Tensor(offset=32)], bytes(64)), "tensor 'weight' appears twice"),
    "tensors that overlap": (
        file([], [Tensor("a", (16,)), Tensor("b", offset=32)], bytes(64)),
        "tensor 'b' with offset 32 overlaps",
    ),
    "an offset between the steps": (file([], [Tensor(offset=8)], bytes(64)), "offset 8, no multiple of 32"),
    "an offset beyond the file": (file([], [Tensor(offset=1 << 40)], bytes(64)), f"ends at byte {(1 << 40) + 80}"),
    "an offset and size that wrap": (file([], [Tensor(offset=(1 << 64) - 32)], bytes(64)), "ends at byte"),
    "a tensor larger than the file": (file([], [Tensor(shape=[17])], bytes(64)), "ends at byte 132, the file at 128"),
    "names with control characters": (
        file([], [Tensor("a\n\x1b[31m\u202e" + "b" * 1000, [0])], bytes(64)),
        r"'a\n\x1b[31m\u202ebbb",
    ),
}  # fmt: skip


@pytest.mark.parametrize("deception", DECEPTIONS)
def test_a_deceptive_file_is_refused_by_the_number_that_matters(path, deception):
    content, expected = DECEPTIONS[deception]
    message = refusal(path, content)
    assert expected in message and "(at byte " in message


@pytest.mark.parametrize("alignment", [0, 3, 33, 1 << 31])
def test_an_alignment_that_makes_no_sense_is_refused(path, alignment):
    keys = [key("general.alignment", U32, u32(alignment))]
    message = refusal(path, file(keys, [Tensor()], bytes(64)))
    assert f"general.alignment is {alignment}, not a power of two" in message or f"{alignment + 16}" in message


@pytest.mark.parametrize("value", [key("general.alignment", STRING, text("32")), key("general.alignment", BOOL, b"\1")])
def test_an_alignment_must_be_an_integer(path, value):
    assert "general.alignment is" in refusal(path, file([value], [Tensor()], bytes(64)))


@pytest.mark.parametrize(("id", "name"), [(16, "IQ2_XXS"), (255, "unknown"), (1 << 31, "unknown")])
def test_a_tensor_type_that_is_not_read_is_named_with_what_is(path, id, name):
    message = refusal(path, file([], [Tensor(type=id)], bytes(64)), UnsupportedModel)
    assert f"tensor 'weight': tensor type {id} ({name}" in message
    assert all(type.name in message for type in TYPES.values())


@pytest.mark.parametrize("count", [1 << 20, 1 << 32, 1 << 63])
def test_a_declared_size_allocates_nothing(path, count):
    contents = [
        file(num_tensors=count),
        file(num_keys=count),
        file([key("k", STRING, u64(count))]),
        file([key("k", ARRAY, array(STRING, count))]),
        file([key("k", ARRAY, array(ValueType.FLOAT32, count))]),
        file([], [Tensor(shape=[count])]),
    ]
    tracemalloc.start()
    try:
        for content in contents:
            refusal(path, content)
        assert tracemalloc.get_traced_memory()[1] < MEBIBYTE
    finally:
        tracemalloc.stop()


# -- split models --


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


def split_keys(number: int, count: int, num_tensors: int) -> list[bytes]:
    return [
        key("split.no", ValueType.UINT16, struct.pack("<H", number)),
        key("split.count", ValueType.UINT16, struct.pack("<H", count)),
        key("split.tensors.count", ValueType.INT32, struct.pack("<i", num_tensors)),
    ]


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


# -- whatever else --

SEEDS = (
    GOOD,
    file([key("general.alignment", U32, u32(64)), *split_keys(0, 1, 1), STRINGS], [Tensor()], bytes(16), alignment=64),
    file([key("k", ARRAY, array(BOOL, 4, b"\0\1\1\0")), key("f", ValueType.FLOAT64, bytes(8))]),
)
EDGES = [0, 1, 2, 3, 7, 255, 1 << 31, (1 << 32) - 1, 1 << 62, 1 << 63, (1 << 64) - 1]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good file in which some bytes or numbers were replaced, inserted or cut out."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.sampled_from(range(8, max(9, len(content)))))  # magic and version have their own tests
        new = draw(st.one_of(st.binary(min_size=0, max_size=12), st.sampled_from(EDGES).map(u64)))
        content[at : at + draw(st.sampled_from([0, len(new), 8, 64]))] = new
    return bytes(content)


def read_everything(model: GGUF) -> Any:
    return [dequantize(tensor.type, tensor.data, tensor.shape) for tensor in model.tensors.values()]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=mutated())
def test_whatever_was_done_to_a_file_it_is_read_whole_or_refused_by_one_line(path, content):
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with GGUF.open(path) as model:
            read_everything(model)
    except ModelFileError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEBIBYTE
