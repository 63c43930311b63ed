"""Packing: every code in its documented place, and every row back as the dequantised truth."""

import numpy as np
import pytest
from numba import types

from tests.worker.kernels.callers import (
    QUANTISED,
    RECORDS,
    Matrix,
    block_length,
    compiled,
    pack,
    random_blocks,
    random_matrix,
    run,
)
from worker.errors import UnsupportedModel
from worker.kernels import ops, panels
from worker.kernels.codes import CODES
from worker.kernels.jit import entry
from worker.quants import BY_NAME

every_format = pytest.mark.parametrize("name", panels.FORMATS)


def read_row(matrix: Matrix, row: int) -> np.ndarray:
    out = np.zeros(matrix.values.shape[1], np.float32)
    panel = matrix.panels[row // 16 * matrix.panel_bytes :]
    run(ops.ROW_READERS[matrix.format.name], panel, row % 16, out.size, out)
    return out


@every_format
@pytest.mark.parametrize("num_rows", [1, 16, 37])
def test_a_packed_row_reads_back_as_dequantised(name, num_rows):
    matrix = random_matrix(name, num_rows, 3 * block_length(name))
    for row in range(num_rows):
        np.testing.assert_array_equal(read_row(matrix, row), matrix.values[row])


@every_format
def test_any_bytes_pack_without_loss(name):
    """All codes and, where they are numbers, all scales: random bytes instead of likely weights."""
    type = BY_NAME[name]
    data = np.random.default_rng(1).integers(0, 256, 20 * type.row_bytes(block_length(name)), np.uint8)
    blocks = data.reshape(20, -1).view(type.dtype)
    matrix = pack(name, blocks)
    for row in range(20):
        expected, got = matrix.values[row], read_row(matrix, row)
        np.testing.assert_array_equal(got[np.isfinite(expected)], expected[np.isfinite(expected)])
        assert not np.isfinite(got[~np.isfinite(expected)]).any()


@every_format
def test_rows_that_pad_the_last_panel_are_zero(name):
    matrix = random_matrix(name, 18, block_length(name))
    for row in range(18, 32):
        assert not read_row(matrix, row).any()


@pytest.mark.parametrize("name", QUANTISED)
def test_codes_of_a_packed_row_lie_where_the_picture_says(name):
    format = panels.FORMATS[name]
    blocks = random_blocks(name, 32, 2 * format.span)
    codes = format.unpack(blocks).codes.reshape(32, -1, 32)  # (rows, blocks, k)
    spans = pack(name, blocks).panels.reshape(2, 2, -1)[:, :, format.layout.header_bytes :]
    vectors = spans.reshape(2, codes.shape[1], -1, 16, 4)  # (panels, blocks, vectors, rows, k of the quad)
    for row, block, k in np.ndindex(codes.shape):
        quad, first, code = k // 4, 0, 0
        for plane in CODES[format.code].planes:
            per_vector = 8 // plane.bits
            packed = int(vectors[row // 16, block, first + quad // per_vector, row % 16, k % 4])
            code |= (packed >> plane.bits * (quad % per_vector) & (1 << plane.bits) - 1) << plane.position
            first += plane.bits
        assert code == codes[row, block, k]


@pytest.mark.parametrize("name", QUANTISED)
def test_scales_and_minima_of_16_rows_lie_before_the_codes_of_their_span(name):
    format = panels.FORMATS[name]
    blocks = random_blocks(name, 32, 3 * format.span)
    unpacked = format.unpack(blocks)
    spans = pack(name, blocks).panels.reshape(2, 3, -1)
    end = 0
    for factors in (unpacked.scales, unpacked.minima, unpacked.small_scales, unpacked.small_minima):
        if factors is not None:
            by_group = factors.reshape(32, 3, -1).transpose(1, 2, 0)  # (spans, groups, rows)
            num_bytes = by_group[0, :, :16].nbytes
            header = spans[1, :, end : end + num_bytes].copy().view(factors.dtype).reshape(3, -1, 16)
            np.testing.assert_array_equal(header, by_group[:, :, 16:])
            end += num_bytes
    assert end == format.layout.header_bytes


@every_format
def test_sizes_are_whole_panels(name):
    format, columns = panels.FORMATS[name], 2 * block_length(name)
    per_panel = format.matrix_bytes(16, columns)
    assert [format.matrix_bytes(rows, columns) for rows in (1, 17, 32)] == [per_panel, 2 * per_panel, 2 * per_panel]
    bits_of_file = 8 * BY_NAME[name].row_bytes(columns) / columns
    assert 0 <= 8 * per_panel / (16 * columns) - bits_of_file < 0.51  # small scales get a byte each


def test_a_type_without_kernel_and_a_row_of_broken_blocks_are_refused_by_name():
    with pytest.raises(UnsupportedModel, match=r"tensor blk.0.attn_q.weight has type IQ1_S, .*supported: F32, F16"):
        panels.panel_format("blk.0.attn_q.weight", "IQ1_S", 256)
    with pytest.raises(UnsupportedModel, match=r"tensor output.weight has rows of 48 values, not a multiple of 32"):
        panels.panel_format("output.weight", "F16", 48)
    with pytest.raises(UnsupportedModel, match=r"tensor output.weight has rows of 288 values, not a multiple of 256"):
        panels.panel_format("output.weight", "Q4_K", 288)


@entry(types.void(RECORDS, types.intp, types.int64, types.intp))
def row_of_record(matrices, reader, row, out):
    ops.read_row(matrices[0], reader, row, out)


def test_rows_are_found_through_the_matrix_record():
    matrix = random_matrix("Q8_0", 40, 64)
    reader = ops.ROW_READERS["Q8_0"]
    reader.compile()
    out = np.zeros(64, np.float32)
    for row in (0, 15, 16, 39):
        compiled(row_of_record)(matrix.record(), reader.address, row, out.ctypes.data)
        np.testing.assert_array_equal(out, matrix.values[row])
