"""One panel, or several, with one tile of tokens: the loops over k-blocks that all products consist of.

matmul.py makes kernels of them for each format and size of tile. Blocks are taken in file order, and no sum is split.
"""

from typing import Any

from worker.kernels.activations import FACTOR_BYTES
from worker.kernels.codes import BLOCK
from worker.kernels.dots import UNPACKED_BYTES, block_dot
from worker.kernels.instruction_sets import INSTRUCTION_SET
from worker.kernels.jit import kernel
from worker.kernels.memory import prefetch, splats, splats_i32, splats_strided
from worker.kernels.number_formats import load_each
from worker.kernels.panels import Layout, PanelFormat
from worker.kernels.simd import LANES, fma, to_float

# Bytes between what a thread computes and what it asks memory for: a processor's own prefetching stops at the end of
# each page of 4 KiB. Weights are read front to back, so that one panel's end asks for the next one's beginning.
AHEAD = 2048
_LINE = 64


@kernel
def _ask_ahead(panel, distance, num_lines, stride, panels):
    """Lets what lies so many bytes ahead of each panel come into the cache."""
    for _ in range(panels):
        for line in range(num_lines):
            prefetch(panel + distance + line * _LINE)
        panel += stride


def _asks(panels: int) -> bool:
    return panels == 1 or INSTRUCTION_SET.asks_abreast


def tile_product(format: PanelFormat, panels: int, size: int) -> Any:
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
