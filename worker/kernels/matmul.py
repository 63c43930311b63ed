"""Matrix products: panels of weights with tiles of activations.

A product of a panel and a tile runs over the k-blocks in file order, whatever the tile's size, and no sum is split: a
token's result is the same alone and among others. `matmul` is what the decoder calls; each thread takes its own panels.
"""

import numpy as np

from worker.kernels.activations import FACTOR_BYTES
from worker.kernels.codes import BLOCK
from worker.kernels.dots import block_dot
from worker.kernels.jit import Native, call, inlined, kernel
from worker.kernels.panels import FORMATS, PanelFormat
from worker.kernels.simd import (
    LANES,
    TILE_SIZES,
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
def weigh(total, dots, sums, bias, scales):
    """total + (dots - bias * sums) * scales, of which the difference is exact."""
    if bias:
        dots = dots - sums * splat_i32(bias)
    return fma(to_float(dots), scales, total)


@inlined
def small_factor(factor, address, is_small):
    """A scale or minimum, times the small one at the address if there is one."""
    if is_small:
        factor = factor * load_numbers("I8", address)
    return factor


@inlined
def quantized_tile(layout, size, panel, num_columns, codes, factors, token):
    """One panel with the tile of `size` tokens that begins at `token`: Tile(f32, size) of 16 rows' sums.

    layout: a Layout of constants.
    """
    code, bias, scale_type, has_minimum, span, group = layout[:6]
    minima_at, small_at, small_minima_at, header_bytes, block_bytes = layout[6:]
    is_small, halves, group_bytes = span > BLOCK, group < BLOCK, LANES * (BLOCK // group)
    codes += token * num_columns
    factors += token * (num_columns // BLOCK) * FACTOR_BYTES
    total = zeros(size)
    for _ in range(num_columns // span):
        span_scale = load_numbers(scale_type, panel)
        span_minimum = load_f16(panel + minima_at)
        scales, minima = panel + small_at, panel + small_minima_at
        panel += header_bytes
        for _ in range(span // BLOCK):
            activation, sums = splats(factors, size), splats_i32(factors + 8 * size, size)
            if halves:
                sums_low = splats_i32(factors + 12 * size, size)
                sums_high = sums - sums_low
                low = span_scale * load_numbers("I8", scales)
                high = span_scale * load_numbers("I8", scales + LANES)
                total = weigh(total, block_dot(code, 0, 4, size, panel, codes), sums_low, bias, low * activation)
                total = weigh(total, block_dot(code, 4, 8, size, panel, codes), sums_high, bias, high * activation)
                if has_minimum:
                    low = span_minimum * load_numbers("I8", minima)
                    high = span_minimum * load_numbers("I8", minima + LANES)
                    total = fma(to_float(sums_low), low * activation, total)
                    total = fma(to_float(sums_high), high * activation, total)
            else:
                scale = small_factor(span_scale, scales, is_small)
                total = weigh(total, block_dot(code, 0, 8, size, panel, codes), sums, bias, scale * activation)
                if has_minimum:
                    minimum = small_factor(span_minimum, minima, is_small)
                    total = fma(minimum, splats(factors + 4 * size, size), total)
            scales += group_bytes
            minima += group_bytes
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
    layout = tuple(format.layout)

    def product(panels, panel_bytes, num_columns, values, codes, factors, out, out_stride, adds, num_tokens, first, last):
        done = 0
        while done < num_tokens:
            end = min(num_tokens, done + TOKENS_AT_ONCE)
            for index in range(first, last):
                panel, target, token = panels + index * panel_bytes, out + index * (4 * LANES), done
                while end - token >= LARGE:
                    total = quantized_tile(layout, LARGE, panel, num_columns, codes, factors, token)
                    put(total, LARGE, target + token * out_stride, out_stride, adds)
                    token += LARGE
                while end - token >= MIDDLE:
                    total = quantized_tile(layout, MIDDLE, panel, num_columns, codes, factors, token)
                    put(total, MIDDLE, target + token * out_stride, out_stride, adds)
                    token += MIDDLE
                while end - token >= 1:
                    total = quantized_tile(layout, 1, panel, num_columns, codes, factors, token)
                    put(total, 1, target + token * out_stride, out_stride, adds)
                    token += 1
            done = end

    return Native(f"product of {format.name}", "i" * 12, product)


def _float_product(format: PanelFormat) -> Native:
    name, number_bytes = format.name, format.number_bytes

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
