"""Every block type against the `gguf` package, which reads the same blocks by other means."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.constants import GGML_QUANT_SIZES

from worker.errors import UnsupportedModel
from worker.quants import BY_NAME, TYPES, UNSUPPORTED, QuantType, dequantize, quant_type

PLAN = [
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4",
]  # fmt: skip
QUANTISABLE = ["BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"]
SCALES = ["d", "m", "dmin"]

every_type = pytest.mark.parametrize("type", TYPES.values(), ids=lambda type: type.name)


def oracle(type: QuantType) -> GGMLQuantizationType:
    return GGMLQuantizationType[type.name]


def random_bytes(type: QuantType, num_rows: int, num_blocks: int, seed: int = 0) -> np.ndarray:
    """Bytes of whole blocks: every code, scale and minimum may appear, infinities and NaN too."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, num_rows * num_blocks * type.dtype.itemsize, np.uint8)


def test_every_type_of_the_plan_is_in_the_table():
    assert sorted(BY_NAME) == sorted(PLAN)


@every_type
def test_ids_and_block_sizes_are_those_of_the_format(type):
    assert type.id == oracle(type).value
    assert (type.block_length, type.dtype.itemsize) == GGML_QUANT_SIZES[oracle(type)]


def test_types_that_are_not_read_are_called_by_the_name_of_the_format():
    for id, name in UNSUPPORTED.items():
        if name not in ("Q4_2", "Q4_3"):  # withdrawn from the format
            assert GGMLQuantizationType[name].value == id
    assert {type.value for type in GGMLQuantizationType} <= TYPES.keys() | UNSUPPORTED.keys()


@every_type
def test_random_blocks_dequantise_as_the_second_opinion_says(type):
    shape = (7, 3 * type.block_length)
    data = random_bytes(type, 7, 3)
    plain = {"F32": np.float32, "F16": np.float16}.get(type.name, np.uint8)  # what the second opinion takes
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(data.reshape(7, -1).view(plain), oracle(type))
    values = dequantize(type, data, shape)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected.reshape(shape))


@pytest.mark.parametrize("name", QUANTISABLE)
def test_quantised_numbers_come_back_close_to_what_they_were(name):
    numbers = np.random.default_rng(1).standard_normal((5, 256)).astype(np.float32)
    data = gguf.quantize(numbers, GGMLQuantizationType[name]).reshape(-1).view(np.uint8)
    values = dequantize(BY_NAME[name], data, numbers.shape)
    np.testing.assert_array_equal(values, gguf.dequantize(data.reshape(5, -1), GGMLQuantizationType[name]))
    tolerance = {"BF16": 0.02, "Q8_0": 0.03, "MXFP4": 1.0}.get(name, 0.35)
    assert np.abs(values - numbers).max() < tolerance


@pytest.mark.parametrize("name", [name for name in PLAN if set(SCALES) & set(BY_NAME[name].dtype.names or ())])
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_a_damaged_scale_spoils_its_own_block_and_no_other(name, scale):
    type = BY_NAME[name]
    blocks = random_bytes(type, 1, 3).view(type.dtype)
    for field in set(SCALES) & set(type.dtype.names):
        blocks[field] = 0.5
    blocks["d"][1] = scale
    with np.errstate(all="raise"):
        values = dequantize(type, blocks.view(np.uint8), (3, type.block_length))
    assert not np.isfinite(values[1]).any()
    assert np.isfinite(values[[0, 2]]).all()


def test_the_smallest_and_the_largest_mxfp4_scale_are_exact():
    type = BY_NAME["MXFP4"]
    blocks = np.zeros(2, type.dtype)
    blocks["e"], blocks["qs"] = [0, 254], 0x11
    values = dequantize(type, blocks.view(np.uint8), (2, 32))
    assert values[0, 0] == np.float32(2.0**-128) and values[1, 0] == np.float32(2.0**126)


def test_a_row_must_be_whole_blocks():
    assert BY_NAME["Q4_K"].row_bytes(512) == 288
    with pytest.raises(ValueError, match="row of 300 elements is not whole blocks of 256"):
        BY_NAME["Q4_K"].row_bytes(300)


def test_data_of_another_size_than_the_shape_is_refused():
    with pytest.raises(ValueError, match="has 40 bytes, not 60"):
        dequantize(BY_NAME["Q4_1"], np.zeros(40, np.uint8), (3, 32))


def test_shapes_of_one_and_three_dimensions_are_kept():
    assert dequantize(BY_NAME["F32"], np.zeros(12, np.uint8), (3,)).shape == (3,)
    assert dequantize(BY_NAME["Q8_0"], np.zeros(204, np.uint8), (2, 3, 32)).shape == (2, 3, 32)


@pytest.mark.parametrize(("id", "name"), [(16, "IQ2_XXS"), (255, "unknown to this version")])
def test_an_unread_type_is_refused_by_number_name_and_what_is_supported(id, name):
    with pytest.raises(UnsupportedModel, match=rf"tensor type {id} \({name}\).*Q4_K") as caught:
        quant_type(id)
    assert "\n" not in str(caught.value)
