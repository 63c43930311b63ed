"""Matrix products: panels of weights with tiles of activations.

A product of a panel and a tile runs over the k-blocks in file order, whatever the tile's size, and no sum is split: a
token's result is the same alone and among others. `matmul` is what the decoder calls; each thread takes its own panels.
"""

from typing import Any

import numpy as np
from numba.extending import overload

from worker.kernels.activations import FACTOR_BYTES, num_unpacked
from worker.kernels.codes import BLOCK, CODES
from worker.kernels.dots import UNPACKED_BYTES, begin_unpacked, end_unpacked, unpack_block
from worker.kernels.instruction_sets import INSTRUCTION_SET
from worker.kernels.jit import Native, call, inlined, kernel
from worker.kernels.memory import load_rows, room, store, store_rows
from worker.kernels.panels import FORMATS, PanelFormat
from worker.kernels.simd import LANES, splat, zeros
from worker.kernels.tile_products import AHEAD, tile_product

_ROWS_BYTES = 4 * LANES  # of a panel's results
_NOTHING = np.float32(0)

# Tokens computed before the next panel is read: their codes stay in the second-level cache.
TOKENS_AT_ONCE = 96
UNPACKED_AT_ONCE = 1024  # columns of a panel, a multiple of every span, which stay in the first-level cache


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
        tiles = inlined(_tiles(format, size, tiles))

    def products(name, panel, num_columns, values, codes, factors, out, out_stride, adds, token, end):
        return tiles(panel, num_columns, values, codes, factors, out, out_stride, adds, token, end)

    return products


def _tiles(format: PanelFormat, size: int, smaller: Any) -> Any:
    """The tiles of `size` tokens that are whole from `token` to `end`, and then smaller ones, if there are any."""
    multiply, write = inlined(tile_product(format, 1, size)), inlined(_writer(size))

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
    multiply, write = inlined(tile_product(format, 1, count)), inlined(_writer(count))
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
    multiply, write = inlined(tile_product(format, count, 1)), inlined(_writer(count))

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
