"""Products of packed matrices against the dequantised truth, over all formats and odd shapes."""

import numpy as np
import pytest
from numba import types

from tests import naive
from tests.worker.kernels.callers import (
    FLOATS,
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
from worker.kernels import activations, matmul, panels
from worker.kernels.jit import entry

every_format = pytest.mark.parametrize("name", panels.FORMATS)


@entry(types.void(RECORDS, *[types.intp] * 5, types.boolean, *[types.int64] * 3))
def multiply(matrices, values, codes, factors, out, out_stride, adds, num_tokens, thread, num_threads):
    matmul.matmul(matrices[0], values, codes, factors, out, out_stride, adds, num_tokens, thread, num_threads)


def product(matrix: Matrix, x: np.ndarray, *, threads: int = 1, onto: np.ndarray | None = None) -> np.ndarray:
    """(tokens, rows padded to whole panels), by the kernel; the shares of all threads, one after the other."""
    num_tokens, num_columns = x.shape
    x = np.ascontiguousarray(x, np.float32)
    codes = np.zeros(num_tokens * num_columns, np.int8)
    factors = np.zeros(num_tokens * num_columns // 32 * 5, np.float32)
    for token in range(num_tokens):
        run(activations.quantize_row, x[token], num_columns, codes, factors, token, num_tokens)
    native = matmul.PRODUCTS[matrix.format.name]
    native.compile()
    out = np.full((num_tokens, 16 * matrix.num_panels + 5), 7e7, np.float32)  # rows of tokens with a gap between
    if onto is not None:
        out[:, : onto.shape[1]] = onto
    for thread in range(threads):
        compiled(multiply)(matrix.record(native.address), x.ctypes.data, codes.ctypes.data, factors.ctypes.data,
                           out.ctypes.data, out.strides[0], onto is not None, num_tokens, thread, threads)  # fmt: skip
    np.testing.assert_array_equal(out[:, 16 * matrix.num_panels :], np.float32(7e7))
    return out[:, : 16 * matrix.num_panels]


def expected_product(matrix: Matrix, x: np.ndarray) -> np.ndarray:
    quantised = matrix.format.unpack is not None
    return naive.matmul(matrix.values, naive.quantise(x).values if quantised else x)


def assert_product_is_right(matrix: Matrix, x: np.ndarray) -> None:
    """Within the rounding of f32 sums: one or two terms a block for quantised formats, one a column for floats.

    A term's parts (scale times code, minimum) can be up to about three times as large as the weight they make.
    """
    num_rows, num_columns = matrix.values.shape
    num_terms = num_columns if matrix.format.unpack is None else num_columns // 16
    largest = 3 * np.abs(matrix.values).max() * np.abs(x).sum(axis=1, keepdims=True)
    error = np.abs(product(matrix, x)[:, :num_rows] - expected_product(matrix, x))
    assert (error <= (num_terms + 4) * 2.0**-24 * largest).all()


@every_format
@pytest.mark.parametrize("num_tokens", range(1, 14))
def test_products_of_few_tokens_are_right(name, num_tokens):
    x = np.random.default_rng(num_tokens).standard_normal((num_tokens, 3 * block_length(name)))
    assert_product_is_right(random_matrix(name, 37, x.shape[1]), x)


@every_format
@pytest.mark.parametrize("num_panels", [3, 4, 5, 11])
def test_products_of_a_single_token_are_right_whatever_the_number_of_panels(name, num_panels):
    x = np.random.default_rng(num_panels).standard_normal((1, 2 * block_length(name)))
    assert_product_is_right(random_matrix(name, 16 * num_panels - 3, x.shape[1]), x)


@every_format
@pytest.mark.parametrize(("num_rows", "num_blocks"), [(1, 1), (16, 2), (17, 1), (100, 18)])
def test_products_of_any_shape_are_right(name, num_rows, num_blocks):
    x = np.random.default_rng(0).standard_normal((5, num_blocks * block_length(name)))
    assert_product_is_right(random_matrix(name, num_rows, x.shape[1]), x)


@every_format
def test_products_of_more_tokens_than_are_computed_at_once_are_right(name):
    num_tokens = 2 * matmul.TOKENS_AT_ONCE + 7
    x = np.random.default_rng(0).standard_normal((num_tokens, block_length(name)))
    assert_product_is_right(random_matrix(name, 37, x.shape[1]), x)


@every_format
def test_products_of_rows_longer_than_what_is_unpacked_at_once_are_right_and_the_same_alone(name):
    num_columns = 2 * matmul.UNPACKED_AT_ONCE + block_length(name)
    x = np.random.default_rng(0).standard_normal((35, num_columns))
    matrix = random_matrix(name, 37, num_columns)
    assert_product_is_right(matrix, x)
    alone = np.concatenate([product(matrix, row[None]) for row in x])
    np.testing.assert_array_equal(product(matrix, x), alone)


@pytest.mark.parametrize("name", QUANTISED)
def test_products_of_whole_numbers_are_exact(name):
    """Scales of 1 on both sides: every partial sum is an integer below 2^24, and f32 must not lose any."""
    rng = np.random.default_rng(2)
    blocks = random_blocks(name, 32, 2 * block_length(name))
    for field in {"d", "m", "dmin"} & set(blocks.dtype.names):
        blocks[field] = 1
    x = rng.integers(-2, 3, (13, 2 * block_length(name))).astype(np.float32)
    x[:, ::32] = 127
    matrix = pack(name, blocks)
    assert np.abs(matrix.values).max() * (127 + 31 * 2) * x.shape[1] / 32 < 1 << 24
    np.testing.assert_array_equal(product(matrix, x), expected_product(matrix, x))


@every_format
@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("num_tokens", [1, 6])
def test_shares_of_threads_give_the_bits_of_one_thread(name, threads, num_tokens):
    x = np.random.default_rng(1).standard_normal((num_tokens, block_length(name)))
    matrix = random_matrix(name, 16 * 14 + 3, x.shape[1])
    np.testing.assert_array_equal(product(matrix, x, threads=threads), product(matrix, x))


@every_format
@pytest.mark.parametrize("num_tokens", [2, 5, 13, 105])
def test_a_token_has_the_same_bits_alone_and_among_others(name, num_tokens):
    x = np.random.default_rng(num_tokens).standard_normal((num_tokens, 2 * block_length(name)))
    matrix = random_matrix(name, 16 * 9 + 3, x.shape[1])
    alone = np.concatenate([product(matrix, row[None]) for row in x])
    np.testing.assert_array_equal(product(matrix, x), alone)


@every_format
@pytest.mark.parametrize("num_tokens", [1, 7, 33])
def test_adding_gives_what_was_there_plus_the_product(name, num_tokens):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((num_tokens, block_length(name)))
    matrix = random_matrix(name, 80, x.shape[1])
    before = rng.standard_normal((num_tokens, 80)).astype(np.float32)
    np.testing.assert_array_equal(product(matrix, x, onto=before), before + product(matrix, x))


@every_format
@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_what_is_not_finite_in_a_token_shows_in_all_its_rows_and_no_other_token(name, spoilt):
    x = np.random.default_rng(4).standard_normal((7, 2 * block_length(name)))
    matrix = random_matrix(name, 32, x.shape[1])
    clean = product(matrix, x)
    x[3, 5] = spoilt
    out = product(matrix, x)
    assert not np.isfinite(out[3]).any()
    others = np.arange(7) != 3
    np.testing.assert_array_equal(out[others], clean[others])


@pytest.mark.parametrize("name", [name for name in panels.FORMATS if name != "MXFP4"])  # all its scales are numbers
def test_what_is_not_finite_in_a_weight_shows_in_its_row_and_no_other(name):
    blocks = random_blocks(name, 32, 2 * block_length(name))
    x = np.random.default_rng(4).standard_normal((5, 2 * block_length(name)))
    clean = product(pack(name, blocks), x)
    if name in FLOATS:
        blocks[9, 40] = 0x7FC0 if name == "BF16" else np.nan
    else:
        blocks["d"][9, 0] = np.nan
    out = product(pack(name, blocks), x)
    assert np.isnan(out[:, 9]).all()
    others = np.arange(32) != 9
    np.testing.assert_array_equal(out[:, others], clean[:, others])


def test_activations_too_small_for_a_scale_do_no_harm():
    x = np.full((3, 64), 1e-38, np.float32)
    for name in panels.FORMATS:
        if block_length(name) == 32:
            assert (np.abs(product(random_matrix(name, 16, 64), x)) < 1e-20).all()


@every_format
def test_a_product_is_named_by_plain_constants_so_that_the_next_process_finds_it_compiled(name):
    cells = matmul.PRODUCTS[name]._function.__closure__
    assert all(isinstance(cell.cell_contents, str | int) for cell in cells)
