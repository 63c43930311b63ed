"""Matrix products: panels of weights with tiles of activations.

A product of a panel and a tile runs over the k-blocks in file order, whatever the tile's size, and no sum is split: a
token's result is the same alone and among others. `matmul` is what the decoder calls; each thread takes its own panels.
"""

import numpy as np

from worker.kernels.activations import FACTOR_BYTES
from worker.kernels.jit import Native, call, inlined, kernel
from worker.kernels.panels import BLOCK, FORMATS, SCALES, PanelFormat
from worker.kernels.simd import (
    LANES,
    TILE_SIZES,
    block_dot,
    fma,
    load_f16,
    load_numbers,
    load_rows,
    splat_i32,
    splats,
    splats_i32,
    splats_strided,
    store_rows,
    to_float,
    zeros,
)

LARGE, MIDDLE, _ = TILE_SIZES

# Tokens computed before the next panel is read: their codes stay in the second-level cache.
TOKENS_AT_ONCE = 96


@inlined
def quantized_tile(format, size, panel, num_columns, codes, factors, token):
    """One panel with the tile of `size` tokens that begins at `token`: Tile(f32, size) of 16 rows' sums.

    format: (bits, bias, has minimum, bytes of codes in a block, bytes of a block), constants.
    """
    bits, bias, has_minimum, code_bytes, block_bytes = format
    num_blocks = num_columns // BLOCK
    codes += token * num_columns
    factors += token * num_blocks * FACTOR_BYTES
    total = zeros(size)
    for _ in range(num_blocks):
        dots = block_dot(bits, size, panel, codes)
        if bias:
            dots = dots - splats_i32(factors + 8 * size, size) * splat_i32(bias)
        total = fma(to_float(dots), load_f16(panel + code_bytes) * splats(factors, size), total)
        if has_minimum:
            total = fma(load_f16(panel + code_bytes + SCALES), splats(factors + 4 * size, size), total)
        panel += block_bytes
        codes += BLOCK * size
        factors += FACTOR_BYTES * size
    return total


@inlined
def float_tile(name, number_bytes, size, panel, num_columns, values, token):
    """One panel with the `size` rows of f32 values from `token` on: Tile(f32, size) of 16 rows' sums."""
    values += token * num_columns * 4
    total = zeros(size)
    for _ in range(num_columns):
        total = fma(load_numbers(name, panel), splats_strided(values, num_columns * 4, size), total)
        panel += LANES * number_bytes
        values += 4
    return total


@inlined
def put(total, size, out, out_stride, adds):
    """Writes a tile's sums, or adds them to what is there."""
    if adds:
        total = load_rows(out, out_stride, size) + total
    store_rows(out, out_stride, total)


def _quantized_product(format: PanelFormat) -> Native:
    bits, bias, has_minimum = format.bits, format.bias, format.has_minimum
    code_bytes, block_bytes = format.code_bytes, format.block_bytes

    def product(panels, panel_bytes, num_columns, values, codes, factors, out, out_stride, adds, num_tokens, first, last):
        done = 0
        while done < num_tokens:
            end = min(num_tokens, done + TOKENS_AT_ONCE)
            for index in range(first, last):
                panel, target, token = panels + index * panel_bytes, out + index * (4 * LANES), done
                while end - token >= LARGE:
                    total = quantized_tile((bits, bias, has_minimum, code_bytes, block_bytes), LARGE,
                                           panel, num_columns, codes, factors, token)
                    put(total, LARGE, target + token * out_stride, out_stride, adds)
                    token += LARGE
                while end - token >= MIDDLE:
                    total = quantized_tile((bits, bias, has_minimum, code_bytes, block_bytes), MIDDLE,
                                           panel, num_columns, codes, factors, token)
                    put(total, MIDDLE, target + token * out_stride, out_stride, adds)
                    token += MIDDLE
                while end - token >= 1:
                    total = quantized_tile((bits, bias, has_minimum, code_bytes, block_bytes), 1,
                                           panel, num_columns, codes, factors, token)
                    put(total, 1, target + token * out_stride, out_stride, adds)
                    token += 1
            done = end

    return Native(f"product of {format.name}", "i" * 12, product)


def _float_product(format: PanelFormat) -> Native:
    name, number_bytes = format.name, format.bits // 8

    def product(panels, panel_bytes, num_columns, values, codes, factors, out, out_stride, adds, num_tokens, first, last):
        for index in range(first, last):
            panel, target, token = panels + index * panel_bytes, out + index * (4 * LANES), 0
            while num_tokens - token >= MIDDLE:
                total = float_tile(name, number_bytes, MIDDLE, panel, num_columns, values, token)
                put(total, MIDDLE, target + token * out_stride, out_stride, adds)
                token += MIDDLE
            while num_tokens - token >= 1:
                total = float_tile(name, number_bytes, 1, panel, num_columns, values, token)
                put(total, 1, target + token * out_stride, out_stride, adds)
                token += 1

    return Native(f"product of {name}", "i" * 12, product)


# By PanelFormat.name; a model needs those of its tensors.
PRODUCTS: dict[str, Native] = {
    format.name: _float_product(format) if format.unpack is None else _quantized_product(format)
    for format in FORMATS.values()
}


@kernel
def matmul(matrix, values, codes, factors, out, out_stride, adds, num_tokens, thread, num_threads):
    """out[t][row] = (or += if adds) sum over k of matrix[row][k] * activation[t][k], for this thread's share of the rows.

    matrix: a MATRIX record; values: address of f32 [tokens][columns] (float formats read it), codes and factors: of
    the quantised tiles (the others do); out: f32, rows of a token contiguous, padded to whole panels, tokens
    `out_stride` bytes apart.
    """
    num_panels = matrix.num_panels
    first, last = num_panels * thread // num_threads, num_panels * (thread + 1) // num_threads
    call(matrix.product, (matrix.panels, matrix.panel_bytes, matrix.num_columns, values, codes, factors, out,
                          out_stride, np.int64(adds), np.int64(num_tokens), first, last))
