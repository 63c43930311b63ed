"""Files cut short and files made to deceive: one clear line, and nothing allocated."""

import os
import struct
import tracemalloc

import pytest

from tests.fixtures_gguf import write_tiny_llama
from tests.worker.gguf.bytewise import (
    ARRAY,
    BOOL,
    GOOD,
    MEBIBYTE,
    NAME,
    Q4_1,
    STRING,
    U32,
    Tensor,
    array,
    file,
    key,
    open_bytes,
    refusal,
    text,
    u32,
    u64,
)
from worker.errors import GGUFError, UnsupportedModel
from worker.gguf import GGUF
from worker.metadata import ValueType
from worker.quants import TYPES


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
