"""Packing: every code in its documented place, and every row back as the dequantised truth."""

import numpy as np
import pytest
from numba import types

from tests.worker.kernels.callers import (
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


@pytest.mark.parametrize("name", [name for name, f in panels.FORMATS.items() if f.bits in (4, 8)])
def test_quads_of_16_rows_lie_side_by_side_and_two_share_the_bytes_of_4_bits(name):
    format = panels.FORMATS[name]
    blocks = random_blocks(name, 32, 2 * block_length(name))
    unpacked = format.unpack(blocks)
    by_block = pack(name, blocks).panels.reshape(2, -1, format.block_bytes)
    for row, block, k in np.ndindex(unpacked.codes.shape):
        quad, byte = k // 4, k % 4
        codes = by_block[row // 16, block]
        if format.bits == 8:
            code = codes[64 * quad + 4 * (row % 16) + byte]
        else:
            code = codes[64 * (quad // 2) + 4 * (row % 16) + byte] >> 4 * (quad % 2) & 15
        assert code == unpacked.codes[row, block, k]
    factors = by_block[:, :, format.code_bytes :].copy().view(np.float16)  # (panels, blocks, 16 or 32)
    np.testing.assert_array_equal(factors[1, :, :16].T, unpacked.scales[16:])
    if format.has_minimum:
        np.testing.assert_array_equal(factors[1, :, 16:].T, unpacked.minima[16:])


@every_format
def test_sizes_are_whole_panels_of_whole_blocks(name):
    format, columns = panels.FORMATS[name], 2 * block_length(name)
    per_panel = format.block_bytes * columns // panels.BLOCK
    assert [format.matrix_bytes(rows, columns) for rows in (1, 16, 17)] == [per_panel, per_panel, 2 * per_panel]


def test_a_type_without_kernel_and_a_row_of_broken_blocks_are_refused_by_name():
    with pytest.raises(UnsupportedModel, match=r"tensor blk.0.attn_q.weight has type IQ1_S, .*supported: F32, F16"):
        panels.panel_format("blk.0.attn_q.weight", "IQ1_S", 256)
    with pytest.raises(UnsupportedModel, match=r"tensor output.weight has rows of 48 values, not a multiple of 32"):
        panels.panel_format("output.weight", "F16", 48)


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
