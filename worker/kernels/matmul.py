"""Matrix products: panels of weights with tiles of activations.

A product of a panel and a tile runs over the k-blocks in file order, whatever the tile's size, and no sum is split: a
token's result is the same alone and among others. `matmul` is what the decoder calls; each thread takes its own panels.
"""

from typing import Any

import numpy as np
from numba.extending import overload

from worker.kernels.activations import FACTOR_BYTES
from worker.kernels.codes import BLOCK
from worker.kernels.dots import block_dot
from worker.kernels.instruction_sets import INSTRUCTION_SET
from worker.kernels.jit import Native, call, inlined, kernel
from worker.kernels.memory import load_rows, prefetch, splats, splats_i32, splats_strided, store_rows
from worker.kernels.number_formats import load_numbers
from worker.kernels.panels import FORMATS, Layout, PanelFormat
from worker.kernels.simd import LANES, fma, splat_i32, to_float, zeros

LARGE, MIDDLE, SMALL, _ = INSTRUCTION_SET.tile_sizes

# Bytes between what a thread computes and what it asks memory for: a processor's own prefetching stops at the end of
# each page of 4 KiB. Weights are read front to back, so that one panel's end asks for the next one's beginning.
AHEAD = 2048
_LINE = 64

# Tokens computed before the next panel is read: their codes stay in the second-level cache.
TOKENS_AT_ONCE = 96


@kernel
def _ask_ahead(address, num_lines):
    """Lets what lies AHEAD of an address come into the cache."""
    for line in range(num_lines):
        prefetch(address + AHEAD + line * _LINE)


def _tile_product(format: PanelFormat, size: int) -> Any:
    """One panel with a tile of `size` tokens, whose activations begin at the addresses: Tile(f32, size) of 16 rows."""
    if format.unpack is None:
        return _of_numbers(format, size)
    return _of_codes_in_halves(format.layout, size) if format.group < BLOCK else _of_codes(format.layout, size)


def _lines(num_bytes: int) -> int:
    return -(-num_bytes // _LINE)


def _of_numbers(format: PanelFormat, size: int) -> Any:
    number, distance = format.name, LANES * format.number_bytes

    def multiply(panel, num_columns, values, codes, factors):
        total = zeros(size)
        for _ in range(num_columns):
            _ask_ahead(panel, 1)
            total = fma(load_numbers(number, panel), splats_strided(values, num_columns * 4, size), total)
            panel += distance
            values += 4
        return total

    return multiply


def _of_codes(layout: Layout, size: int) -> Any:
    """Blocks of 32 k under one scale."""
    code, bias, scale_type, has_minimum, span, _, minima_at, small_at, small_minima_at, header, block = layout
    is_small, codes_bytes, factors_bytes = span > BLOCK, BLOCK * size, FACTOR_BYTES * size
    header_lines, block_lines = _lines(header), _lines(block)

    def multiply(panel, num_columns, values, codes, factors):
        total = zeros(size)
        for _ in range(num_columns // span):
            span_scale, span_minimum = load_numbers(scale_type, panel), load_numbers("F16", panel + minima_at)
            scale, minimum = span_scale, span_minimum
            small, small_minimum = panel + small_at, panel + small_minima_at
            _ask_ahead(panel, header_lines)
            panel += header
            for _ in range(span // BLOCK):
                if is_small:
                    scale = span_scale * load_numbers("I8", small)
                    minimum = span_minimum * load_numbers("I8", small_minimum)
                    small += LANES
                    small_minimum += LANES
                _ask_ahead(panel, block_lines)
                dots = block_dot(code, 0, 8, size, panel, codes)
                if bias:
                    dots = dots - splats_i32(factors + 8 * size, size) * splat_i32(bias)
                total = fma(to_float(dots), scale * splats(factors, size), total)
                if has_minimum:
                    total = fma(minimum, splats(factors + 4 * size, size), total)
                panel += block
                codes += codes_bytes
                factors += factors_bytes
        return total

    return multiply


def _of_codes_in_halves(layout: Layout, size: int) -> Any:
    """Blocks of 32 k whose halves have each their small scale, and with it their small minimum."""
    code, bias, scale_type, has_minimum, span, _, minima_at, small_at, small_minima_at, header, block = layout
    codes_bytes, factors_bytes, smalls_bytes = BLOCK * size, FACTOR_BYTES * size, 2 * LANES
    header_lines, block_lines = _lines(header), _lines(block)

    def multiply(panel, num_columns, values, codes, factors):
        total = zeros(size)
        for _ in range(num_columns // span):
            scale, minimum = load_numbers(scale_type, panel), load_numbers("F16", panel + minima_at)
            small, small_minimum = panel + small_at, panel + small_minima_at
            _ask_ahead(panel, header_lines)
            panel += header
            for _ in range(span // BLOCK):
                _ask_ahead(panel, block_lines)
                first = block_dot(code, 0, 4, size, panel, codes)
                last = block_dot(code, 4, 8, size, panel, codes)
                if bias:
                    first = first - splats_i32(factors + 12 * size, size) * splat_i32(bias)
                    last = last - splats_i32(factors + 16 * size, size) * splat_i32(bias)
                sums = to_float(first) * (scale * load_numbers("I8", small))
                sums = fma(to_float(last), scale * load_numbers("I8", small + LANES), sums)
                if has_minimum:
                    first, last = splats_i32(factors + 12 * size, size), splats_i32(factors + 16 * size, size)
                    sums = fma(to_float(first), minimum * load_numbers("I8", small_minimum), sums)
                    sums = fma(to_float(last), minimum * load_numbers("I8", small_minimum + LANES), sums)
                total = fma(sums, splats(factors, size), total)
                small += smalls_bytes
                small_minimum += smalls_bytes
                panel += block
                codes += codes_bytes
                factors += factors_bytes
        return total

    return multiply


def panel_products(
    name: str, size: int, panel: int, num_columns: int, values: int, codes: int, factors: int, out: int,
    out_stride: int, adds: int, token: int, end: int,
) -> int:  # fmt: skip
    """One panel with the tiles of `size` tokens that are whole from `token` to `end`; the first token left over.

    name, size: constants, the first of a format.
    """
    raise NotImplementedError("only in kernels")


@overload(panel_products, prefer_literal=True, strict=False)  # strict would compare annotations
def _panel_products(
    name: Any, size: Any, panel: Any, num_columns: Any, values: Any, codes: Any, factors: Any, out: Any,
    out_stride: Any, adds: Any, token: Any, end: Any,
) -> Any:  # fmt: skip
    count = size.literal_value
    multiply = inlined(_tile_product(FORMATS[name.literal_value], count))

    def products(name, size, panel, num_columns, values, codes, factors, out, out_stride, adds, token, end):
        factors_bytes = num_columns // BLOCK * FACTOR_BYTES  # of a token
        while end - token >= count:
            total = multiply(panel, num_columns, values + token * num_columns * 4, codes + token * num_columns,
                             factors + token * factors_bytes)
            rows = out + token * out_stride
            if adds:
                total = load_rows(rows, out_stride, count) + total
            store_rows(rows, out_stride, total)
            token += count
        return token

    return products


def _product(name: str) -> Native:
    large = INSTRUCTION_SET.number_tile if FORMATS[name].unpack is None else LARGE

    def product(
        panels, panel_bytes, num_columns, values, codes, factors, out, out_stride, adds, num_tokens, first, last
    ):
        for done in range(0, num_tokens, TOKENS_AT_ONCE):
            end = min(num_tokens, done + TOKENS_AT_ONCE)
            for index in range(first, last):
                panel, target = panels + index * panel_bytes, out + index * (4 * LANES)
                token = panel_products(
                    name, large, panel, num_columns, values, codes, factors, target, out_stride, adds, done, end)
                token = panel_products(
                    name, MIDDLE, panel, num_columns, values, codes, factors, target, out_stride, adds, token, end)
                token = panel_products(
                    name, SMALL, panel, num_columns, values, codes, factors, target, out_stride, adds, token, end)
                panel_products(
                    name, 1, panel, num_columns, values, codes, factors, target, out_stride, adds, token, end)

    return Native(f"product of {name}", "i" * 12, product)


# By PanelFormat.name; a model needs those of its tensors.
PRODUCTS: dict[str, Native] = {name: _product(name) for name in FORMATS}


@kernel
def matmul(matrix, values, codes, factors, out, out_stride, adds, num_tokens, thread, num_threads):
    """out[t][row] = (or += if adds) sum over k of matrix[row][k] * activation[t][k], for this thread's rows.

    matrix: a MATRIX record; values: address of f32 [tokens][columns] (float formats read it), codes and factors: of
    the quantised tiles (the others do); out: f32, rows of a token contiguous, padded to whole panels, tokens
    `out_stride` bytes apart.
    """
    num_panels = matrix.num_panels
    first, last = num_panels * thread // num_threads, num_panels * (thread + 1) // num_threads
    call(matrix.product, (matrix.panels, matrix.panel_bytes, matrix.num_columns, values, codes, factors, out,
                          out_stride, np.int64(adds), np.int64(num_tokens), first, last))
