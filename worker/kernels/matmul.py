"""Matrix products: panels of weights with tiles of activations.

A product of a panel and a tile runs over the k-blocks in file order, whatever the tile's size, and no sum is split: a
token's result is the same alone and among others. `matmul` is what the decoder calls; each thread takes its own panels.
"""

from typing import Any

import numpy as np
from numba.extending import overload

from worker.kernels.activations import FACTOR_BYTES, num_unpacked
from worker.kernels.codes import BLOCK, CODES
from worker.kernels.dots import (
    UNPACKED_BYTES,
    begin_unpacked,
    block_dot,
    end_unpacked,
    unpack_block,
)
from worker.kernels.instruction_sets import INSTRUCTION_SET
from worker.kernels.jit import Native, call, inlined, kernel
from worker.kernels.memory import (
    load_rows,
    prefetch,
    room,
    splats,
    splats_i32,
    splats_strided,
    store,
    store_rows,
)
from worker.kernels.number_formats import load_each
from worker.kernels.panels import FORMATS, Layout, PanelFormat
from worker.kernels.simd import LANES, fma, splat, to_float, zeros

# Bytes between what a thread computes and what it asks memory for: a processor's own prefetching stops at the end of
# each page of 4 KiB. Weights are read front to back, so that one panel's end asks for the next one's beginning.
AHEAD = 2048
_LINE = 64

_ROWS_BYTES = 4 * LANES  # of a panel's results
_NOTHING = np.float32(0)

# Tokens computed before the next panel is read: their codes stay in the second-level cache.
TOKENS_AT_ONCE = 96
UNPACKED_AT_ONCE = 1024  # columns of a panel, a multiple of every span, which stay in the first-level cache


@kernel
def _ask_ahead(panel, distance, num_lines, stride, panels):
    """Lets what lies so many bytes ahead of each panel come into the cache."""
    for _ in range(panels):
        for line in range(num_lines):
            prefetch(panel + distance + line * _LINE)
        panel += stride


def _asks(panels: int) -> bool:
    return panels == 1 or INSTRUCTION_SET.asks_abreast


def _tile_product(format: PanelFormat, panels: int, size: int) -> Any:
    """One panel with a tile of `size` tokens, whose activations begin at the addresses, or several with one token.

    The panels lie `stride` bytes apart; what they were unpacked to, if the tile takes it, is at `unpacked`. Adds to
    `total`: Tile(f32, panels * size) of 16 rows.
    """
    if format.unpack is None:
        return _of_numbers(format, panels, size)
    of_codes = _of_codes_in_halves if format.group < BLOCK else _of_codes
    return of_codes(format.layout, panels, size)


def _lines(num_bytes: int) -> int:
    return -(-num_bytes // _LINE)


def _of_numbers(format: PanelFormat, panels: int, size: int) -> Any:
    number, distance, asks = format.name, LANES * format.number_bytes, _asks(panels)

    def multiply(total, panel, stride, ahead, unpacked, num_columns, values, codes, factors):
        for _ in range(num_columns):
            if asks:
                _ask_ahead(panel, AHEAD, 1, stride, panels)
            weights = load_each(number, panel, stride, panels)
            total = fma(weights, splats_strided(values, num_columns * 4, size), total)
            panel += distance
            values += 4
        return total

    return multiply


def _of_codes(layout: Layout, panels: int, size: int) -> Any:
    """Blocks of 32 k under one scale."""
    code, bias, scale_type, has_minimum, span, _, minima_at, small_at, small_minima_at, header, block = layout
    is_small, codes_bytes, factors_bytes = span > BLOCK, BLOCK * size, FACTOR_BYTES * size
    header_lines, block_lines, asks = _lines(header), _lines(block), _asks(panels)

    def multiply(total, panel, stride, ahead, unpacked, num_columns, values, codes, factors):
        for _ in range(num_columns // span):
            span_scale = load_each(scale_type, panel, stride, panels)
            span_minimum = load_each("F16", panel + minima_at, stride, panels)
            scale, minimum = span_scale, span_minimum
            small, small_minimum = panel + small_at, panel + small_minima_at
            if asks:
                _ask_ahead(panel, ahead, header_lines, stride, panels)
            panel += header
            for _ in range(span // BLOCK):
                if is_small:
                    scale = span_scale * load_each("I8", small, stride, panels)
                    minimum = span_minimum * load_each("I8", small_minimum, stride, panels)
                    small += LANES
                    small_minimum += LANES
                if asks:
                    _ask_ahead(panel, ahead, block_lines, stride, panels)
                dots = block_dot(code, bias, 0, 8, panels, size, panel, stride, unpacked, codes, factors + 8 * size)
                total = fma(to_float(dots), scale * splats(factors, size), total)
                if has_minimum:
                    total = fma(minimum, splats(factors + 4 * size, size), total)
                panel += block
                unpacked += UNPACKED_BYTES
                codes += codes_bytes
                factors += factors_bytes
        return total

    return multiply


def _of_codes_in_halves(layout: Layout, panels: int, size: int) -> Any:
    """Blocks of 32 k whose halves have each their small scale, and with it their small minimum."""
    code, bias, scale_type, has_minimum, span, _, minima_at, small_at, small_minima_at, header, block = layout
    codes_bytes, factors_bytes, smalls_bytes = BLOCK * size, FACTOR_BYTES * size, 2 * LANES
    header_lines, block_lines, asks = _lines(header), _lines(block), _asks(panels)

    def multiply(total, panel, stride, ahead, unpacked, num_columns, values, codes, factors):
        for _ in range(num_columns // span):
            scale = load_each(scale_type, panel, stride, panels)
            minimum = load_each("F16", panel + minima_at, stride, panels)
            small, small_minimum = panel + small_at, panel + small_minima_at
            if asks:
                _ask_ahead(panel, ahead, header_lines, stride, panels)
            panel += header
            for _ in range(span // BLOCK):
                if asks:
                    _ask_ahead(panel, ahead, block_lines, stride, panels)
                first = block_dot(code, bias, 0, 4, panels, size, panel, stride, unpacked, codes, factors + 12 * size)
                last = block_dot(code, bias, 4, 8, panels, size, panel, stride, unpacked, codes, factors + 16 * size)
                sums = to_float(first) * (scale * load_each("I8", small, stride, panels))
                sums = fma(to_float(last), scale * load_each("I8", small + LANES, stride, panels), sums)
                if has_minimum:
                    first, last = splats_i32(factors + 12 * size, size), splats_i32(factors + 16 * size, size)
                    low = minimum * load_each("I8", small_minimum, stride, panels)
                    high = minimum * load_each("I8", small_minimum + LANES, stride, panels)
                    sums = fma(to_float(last), high, fma(to_float(first), low, sums))
                total = fma(sums, splats(factors, size), total)
                small += smalls_bytes
                small_minimum += smalls_bytes
                panel += block
                unpacked += UNPACKED_BYTES
                codes += codes_bytes
                factors += factors_bytes
        return total

    return multiply


def panel_products(
    name: str, panel: int, num_columns: int, values: int, codes: int, factors: int, out: int, out_stride: int,
    adds: int, token: int, end: int,
) -> int:  # fmt: skip
    """One panel with the tiles from `token` to `end`, the largest first; `end`. name: a constant, that of a format."""
    raise NotImplementedError("only in kernels")


@overload(panel_products, prefer_literal=True, strict=False)  # strict would compare annotations
def _panel_products(
    name: Any, panel: Any, num_columns: Any, values: Any, codes: Any, factors: Any, out: Any, out_stride: Any,
    adds: Any, token: Any, end: Any,
) -> Any:  # fmt: skip
    format = FORMATS[name.literal_value]
    largest = INSTRUCTION_SET.number_tile if format.unpack is None else INSTRUCTION_SET.tile_sizes[0]
    smaller = [size for size in INSTRUCTION_SET.tile_sizes if size < largest]
    tiles: Any = None
    for size in reversed((largest, *smaller)):
        tiles = kernel(_tiles(format, size, tiles))

    def products(name, panel, num_columns, values, codes, factors, out, out_stride, adds, token, end):
        return tiles(panel, num_columns, values, codes, factors, out, out_stride, adds, token, end)

    return products


def _tiles(format: PanelFormat, size: int, smaller: Any) -> Any:
    """The tiles of `size` tokens that are whole from `token` to `end`, and then smaller ones, if there are any."""
    multiply, write = inlined(_tile_product(format, 1, size)), inlined(_writer(size))

    def tiles(panel, num_columns, values, codes, factors, out, out_stride, adds, token, end):
        factors_bytes = num_columns // BLOCK * FACTOR_BYTES  # of a token
        while end - token >= size:
            total = multiply(zeros(size), panel, 0, AHEAD, 0, num_columns, values + token * num_columns * 4,
                             codes + token * num_columns, factors + token * factors_bytes)
            write(out + token * out_stride, out_stride, adds, total)
            token += size
        return token

    def all_tiles(panel, num_columns, values, codes, factors, out, out_stride, adds, token, end):
        token = own(panel, num_columns, values, codes, factors, out, out_stride, adds, token, end)
        return smaller(panel, num_columns, values, codes, factors, out, out_stride, adds, token, end)

    own = inlined(tiles)
    return tiles if smaller is None else all_tiles


def unpacked_products(
    name: str, panel: int, num_columns: int, codes: int, factors: int, out: int, out_stride: int, adds: int,
    token: int, end: int,
) -> int:  # fmt: skip
    """One panel with the tiles from `token` to `end`, which take unpacked weights, if this format has such; `end` then.

    name: a constant, that of a format. A part of the panel is unpacked for all tiles together, and then the next one.
    """
    raise NotImplementedError("only in kernels")


@overload(unpacked_products, prefer_literal=True, strict=False)
def _unpacked_products(
    name: Any, panel: Any, num_columns: Any, codes: Any, factors: Any, out: Any, out_stride: Any, adds: Any,
    token: Any, end: Any,
) -> Any:  # fmt: skip
    format, count = FORMATS[name.literal_value], INSTRUCTION_SET.unpacked_tile
    if not _unpacks(format):
        return lambda name, panel, num_columns, codes, factors, out, out_stride, adds, token, end: token
    layout = format.layout
    multiply, write = inlined(_tile_product(format, 1, count)), inlined(_writer(count))
    code, bias, span, header, block = layout.code, layout.bias, layout.span, layout.header_bytes, layout.block_bytes
    span_bytes = layout.span_bytes
    weights_bytes, totals_bytes = UNPACKED_AT_ONCE * LANES, TOKENS_AT_ONCE * _ROWS_BYTES

    def products(name, panel, num_columns, codes, factors, out, out_stride, adds, token, end):
        if token >= end:
            return token
        weights, totals = room(weights_bytes), room(totals_bytes)
        factors_bytes = num_columns // BLOCK * FACTOR_BYTES  # of a token
        for place in range(0, (end - token) * _ROWS_BYTES, _ROWS_BYTES):
            store(totals + place, splat(_NOTHING))
        for first in range(0, num_columns, UNPACKED_AT_ONCE):
            num = min(UNPACKED_AT_ONCE, num_columns - first)
            part_bytes, unpacked = num // span * span_bytes, weights
            for index in range(num // span):
                blocks = panel + index * span_bytes + header
                for _ in range(span // BLOCK):
                    unpack_block(code, bias, blocks, unpacked)
                    blocks += block
                    unpacked += UNPACKED_BYTES
            for t in range(token, end, count):
                rows = totals + (t - token) * _ROWS_BYTES
                total = multiply(load_rows(rows, _ROWS_BYTES, count), panel, 0, part_bytes, weights, num, 0,
                                 codes + t * num_columns + first * count,
                                 factors + t * factors_bytes + first // BLOCK * FACTOR_BYTES * count)
                if first + num < num_columns:
                    store_rows(rows, _ROWS_BYTES, total)
                else:
                    write(out + t * out_stride, out_stride, adds, total)
            panel += part_bytes
        return end

    return products


def _unpacks(format: PanelFormat) -> bool:
    return format.unpack is not None and INSTRUCTION_SET.unpacked_tile > 0


def _writer(count: int) -> Any:
    def write(rows, stride, adds, total):
        if adds:
            total = load_rows(rows, stride, count) + total
        store_rows(rows, stride, total)

    return write


def _num_abreast(format: PanelFormat) -> int:
    """Panels that a single token takes together, each from its own part of the thread's.

    A core that reads at several places gets more from memory than one that reads at one. Where it does not ask ahead at
    all of them, codes of several planes, which keep it computing meanwhile, are better off with asking at one.
    """
    is_quick = format.unpack is None or len(CODES[format.code].planes) == 1
    return INSTRUCTION_SET.panels_abreast if is_quick or INSTRUCTION_SET.asks_abreast else 1


def abreast_products(
    name: str, panels: int, panel_bytes: int, num_columns: int, values: int, codes: int, factors: int, out: int,
    adds: int, first: int, last: int,
) -> int:  # fmt: skip
    """One token with the panels from `first` to `last`, as many as come out even; the first one left over.

    name: a constant, that of a format.
    """
    raise NotImplementedError("only in kernels")


@overload(abreast_products, prefer_literal=True, strict=False)
def _abreast_products(
    name: Any, panels: Any, panel_bytes: Any, num_columns: Any, values: Any, codes: Any, factors: Any, out: Any,
    adds: Any, first: Any, last: Any,
) -> Any:  # fmt: skip
    format = FORMATS[name.literal_value]
    count = _num_abreast(format)
    multiply, write = inlined(_tile_product(format, count, 1)), inlined(_writer(count))

    def none(name, panels, panel_bytes, num_columns, values, codes, factors, out, adds, first, last):
        return first

    def products(name, panels, panel_bytes, num_columns, values, codes, factors, out, adds, first, last):
        part = (last - first) // count
        for index in range(first, first + part):
            panel, rows = panels + index * panel_bytes, out + index * _ROWS_BYTES
            total = multiply(zeros(count), panel, part * panel_bytes, AHEAD, 0, num_columns, values, codes, factors)
            write(rows, part * _ROWS_BYTES, adds, total)
        return first + part * count

    return none if count == 1 else products


def _product(name: str) -> Native:
    """Its closure holds plain constants alone, by which the cache finds it again."""
    unpacks = _unpacks(FORMATS[name])

    def product(
        panels, panel_bytes, num_columns, values, codes, factors, out, out_stride, adds, num_tokens, first, last
    ):
        if num_tokens == 1:
            first = abreast_products(
                name, panels, panel_bytes, num_columns, values, codes, factors, out, adds, first, last)
        unpacked = num_unpacked(num_tokens) if unpacks else 0
        if unpacked > 0:
            begin_unpacked()
        for done in range(0, num_tokens, TOKENS_AT_ONCE):
            end = min(num_tokens, done + TOKENS_AT_ONCE)
            for index in range(first, last):
                panel, target = panels + index * panel_bytes, out + index * _ROWS_BYTES
                token = unpacked_products(
                    name, panel, num_columns, codes, factors, target, out_stride, adds, done, min(end, unpacked))
                panel_products(name, panel, num_columns, values, codes, factors, target, out_stride, adds, token, end)
        if unpacked > 0:
            end_unpacked()

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
