"""Matrix products: panels of weights with tiles of activations.

A product of a panel and a tile runs over the k-blocks in file order, whatever the tile's size, and no sum is split: a
token's result is the same alone and among others. `matmul` is what the decoder calls; each thread takes its own panels.
"""

from typing import Any

from worker.kernels.activations import FACTOR_BYTES, TILE_SIZES
from worker.kernels.jit import choose, kernel
from worker.kernels.panels import BLOCK, FORMATS, SCALES, PanelFormat
from worker.kernels.simd import (
    LANES,
    block_dot,
    fma,
    load,
    load_bf16,
    load_f16,
    load_rows,
    splat_i32,
    splats,
    splats_i32,
    splats_strided,
    store_rows,
    to_float,
    zeros,
)

# Tokens computed before the next panel is read: their codes stay in the second-level cache.
TOKENS_AT_ONCE = 96


def _quantized_tile(format: PanelFormat, size: int) -> Any:
    bits, bias, has_minimum = format.bits, format.bias, format.has_minimum
    code_bytes, block_bytes = format.code_bytes, format.block_bytes

    @kernel
    def quantized_tile(panel, codes, factors, num_blocks):
        """One panel with one tile: Tile(f32, size) of 16 rows' sums."""
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

    return quantized_tile


_LOAD_NUMBERS = {"F32": load, "F16": load_f16, "BF16": load_bf16}


def _float_tile(format: PanelFormat, size: int) -> Any:
    load_numbers, step = _LOAD_NUMBERS[format.name], LANES * format.bits // 8

    @kernel
    def float_tile(panel, values, stride, num_columns):
        """One panel with `size` rows of f32 values, `stride` bytes apart."""
        total = zeros(size)
        for _ in range(num_columns):
            total = fma(load_numbers(panel), splats_strided(values, stride, size), total)
            panel += step
            values += 4
        return total

    return float_tile


def _tile_loop(format: PanelFormat, size: int) -> Any:
    """All whole tiles of one size: (panel, ..., token, end) -> the first token not computed."""
    quantized = format.unpack is not None
    tile = _quantized_tile(format, size) if quantized else _float_tile(format, size)

    @kernel
    def tile_loop(panel, num_columns, values, codes, factors, out, out_stride, adds, token, end):
        while end - token >= size:
            if quantized:
                num_blocks = num_columns // BLOCK
                total = tile(panel, codes + token * num_columns,
                             factors + token * num_blocks * FACTOR_BYTES, num_blocks)
            else:
                total = tile(panel, values + token * num_columns * 4, num_columns * 4, num_columns)
            target = out + token * out_stride
            if adds:
                total = load_rows(target, out_stride, size) + total
            store_rows(target, out_stride, total)
            token += size
        return token

    return tile_loop


def _chain(loops: list[Any]) -> Any:
    """The loops of all sizes, largest first, as one function."""
    if len(loops) == 1:
        return loops[0]
    first, rest = loops[0], _chain(loops[1:])

    @kernel
    def chain(panel, num_columns, values, codes, factors, out, out_stride, adds, token, end):
        token = first(panel, num_columns, values, codes, factors, out, out_stride, adds, token, end)
        return rest(panel, num_columns, values, codes, factors, out, out_stride, adds, token, end)

    return chain


def _panel_loop(format: PanelFormat) -> Any:
    tiles = _chain([_tile_loop(format, size) for size in TILE_SIZES])

    @kernel
    def panel_loop(panels, panel_bytes, num_columns, values, codes, factors, out, out_stride, adds, num_tokens,
                   first, last):
        token = 0
        while token < num_tokens:
            end = num_tokens if num_tokens - token <= TOKENS_AT_ONCE else token + TOKENS_AT_ONCE
            for panel in range(first, last):
                tiles(panels + panel * panel_bytes, num_columns, values, codes, factors,
                      out + panel * (4 * LANES), out_stride, adds, token, end)
            token = end

    return panel_loop


_panel_loop_of = choose({format.id: _panel_loop(format) for format in FORMATS.values()})


@kernel
def matmul(matrix, values, codes, factors, out, out_stride, adds, num_tokens, thread, num_threads):
    """out[t][row] = (or += if adds) sum over k of matrix[row][k] * activation[t][k], for this thread's share of the rows.

    matrix: a MATRIX record; values: address of f32 [tokens][columns] (float formats read it), codes and factors: of
    the quantised tiles (the others do); out: f32, rows of a token contiguous, padded to whole panels, tokens
    `out_stride` bytes apart.
    """
    num_panels = matrix.num_panels
    first, last = num_panels * thread // num_threads, num_panels * (thread + 1) // num_threads
    _panel_loop_of(matrix.format_id, matrix.panels, matrix.panel_bytes, matrix.num_columns, values, codes, factors,
                   out, out_stride, adds, num_tokens, first, last)
