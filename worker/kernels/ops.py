"""Everything of a layer that is neither a matrix product nor attention: norms, rotation, activation functions, rows.

Called by model/decoder.py, for one token at a time, so that every token is computed alike. Addresses are bytes, values
f32.
"""

from typing import Any

import numpy as np

from worker.kernels.activations import FACTOR_BYTES, place, quantize_block
from worker.kernels.codes import BLOCK, CODES, QUAD_BYTES
from worker.kernels.jit import Native, call, inlined, kernel, native
from worker.kernels.memory import load, load_scalar, load_scalar_u8, store, store_scalar
from worker.kernels.number_formats import load_number
from worker.kernels.panels import FORMATS, PanelFormat
from worker.kernels.simd import (
    LANES,
    add,
    bits_to_float,
    fma,
    maximum,
    minimum,
    pick,
    round_even,
    shift_left,
    splat,
    splat_i32,
    sum_lanes,
    to_float,
    where_below,
    zeros,
)

VECTOR = 4 * LANES  # bytes

_LOWEST = np.float32(-87.0)  # exp of less is 0: what f32 could still show of it is denormal
_HIGHEST = np.float32(88.0)  # exp of more is that of this: e^89 is beyond f32
_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
# Minimax coefficients of exp on [-ln 2 / 2, ln 2 / 2], from Cephes (expf.c).
_EXP = tuple(np.float32(c) for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2,
                                     1.6666665459e-1, 5.0000001201e-1))


@kernel
def exp(x):
    """e to the power of 16 lanes, within 2 units of the last place; exactly 0 below -87, e^88 above 88; NaN of NaN."""
    highest = splat(_HIGHEST)
    bounded = maximum(where_below(highest, x, highest, x), splat(_LOWEST))
    whole = round_even(bounded * splat(_LOG2_E))
    n = to_float(whole)
    r = fma(n, splat(-_LN2_HIGH), bounded)
    r = fma(n, splat(-_LN2_LOW), r)
    p = splat(_EXP[0])
    p = fma(p, r, splat(_EXP[1]))
    p = fma(p, r, splat(_EXP[2]))
    p = fma(p, r, splat(_EXP[3]))
    p = fma(p, r, splat(_EXP[4]))
    p = fma(p, r, splat(_EXP[5]))
    p = fma(p, r * r, r) + splat(np.float32(1))
    power = bits_to_float(shift_left(add(whole, splat_i32(127)), 23))
    nothing = splat(np.float32(0))
    return where_below(x, splat(_LOWEST), nothing, p * power)


@kernel
def copy_row(values, out, num_columns):
    """Copies [num_columns] values."""
    for i in range(0, 4 * num_columns, VECTOR):
        store(out + i, load(values + i))


@kernel
def root_mean_square(values, num_columns, epsilon):
    """1 / sqrt(mean of squares + epsilon) of [num_columns] values, a multiple of 16."""
    total = pick(zeros(1), 0)
    for i in range(0, 4 * num_columns, VECTOR):
        x = load(values + i)
        total = fma(x, x, total)
    return np.float32(1) / np.sqrt(sum_lanes(total) / np.float32(num_columns) + epsilon)


@native("iiiif")
def norm_row(values, weight, out, num_columns, epsilon):
    """RMS norm of a row, times weight."""
    factor = splat(root_mean_square(values, num_columns, epsilon))
    for i in range(0, 4 * num_columns, VECTOR):
        store(out + i, load(values + i) * factor * load(weight + i))


@native("iiifiiii")
def norm_quantize_row(values, weight, num_columns, epsilon, codes, factors, token, num_tokens):
    """RMS norm of a token's row, times weight, quantised into the tiled buffers."""
    scale = splat(root_mean_square(values, num_columns, epsilon))
    code, factor, size = place(codes, factors, num_columns, token, num_tokens)
    for i in range(0, 4 * num_columns, 2 * VECTOR):
        low = load(values + i) * scale * load(weight + i)
        high = load(values + i + VECTOR) * scale * load(weight + i + VECTOR)
        quantize_block(low, high, code, factor, size)
        code += BLOCK * size
        factor += FACTOR_BYTES * size


@native("iiiif")
def add_normed_row(values, weight, out, num_columns, epsilon):
    """out += RMS norm of a row, times weight."""
    factor = splat(root_mean_square(values, num_columns, epsilon))
    for i in range(0, 4 * num_columns, VECTOR):
        store(out + i, load(out + i) + load(values + i) * factor * load(weight + i))


@kernel
def add_row(values, out, num_columns):
    """out += values."""
    for i in range(0, 4 * num_columns, VECTOR):
        store(out + i, load(out + i) + load(values + i))


@kernel
def scale_row(values, num_columns, factor):
    """values *= factor."""
    for i in range(0, 4 * num_columns, VECTOR):
        store(values + i, load(values + i) * splat(factor))


@kernel
def tanh(x):
    """Hyperbolic tangent of 16 lanes, |x| <= 44."""
    one, two = splat(np.float32(1)), splat(np.float32(2))
    return one - two / (exp(x + x) + one)


@kernel
def cap(x, limit):
    """limit * tanh(x / limit): values near 0 stay, none exceeds the limit."""
    return splat(limit) * tanh(x / splat(limit))


@kernel
def cap_row(values, num_columns, limit):
    """Soft-caps a row in place."""
    for i in range(0, 4 * num_columns, VECTOR):
        store(values + i, cap(load(values + i), limit))


@kernel
def silu(x):
    """x / (1 + e^-x), 16 lanes."""
    one = splat(np.float32(1))
    return x / (one + exp(splat(np.float32(0)) - maximum(x, splat(_LOWEST))))


@kernel
def gelu(x):
    """The tanh form of the Gaussian error linear unit, 16 lanes."""
    half, one = splat(np.float32(0.5)), splat(np.float32(1))
    cubic = splat(np.float32(0.044715)) * x * x * x
    inner = splat(np.float32(0.7978845608028654)) * (x + cubic)  # sqrt(2 / pi)
    bounded = minimum(maximum(inner, splat(np.float32(-20))), splat(np.float32(20)))  # tanh is +-1 beyond
    return half * x * (one + tanh(bounded))


@inlined
def activate(activation, x):
    """The activation function with this name (a constant)."""
    return silu(x) if activation == "silu" else gelu(x)


def _gated(activation: str) -> tuple[Native, Native]:
    def gated_row(gate, up, out, num_columns):
        """out = activation(gate) * up."""
        for i in range(0, 4 * num_columns, VECTOR):
            store(out + i, activate(activation, load(gate + i)) * load(up + i))

    def gated_quantize_row(gate, up, num_columns, codes, factors, token, num_tokens):
        """activation(gate) * up of a token, quantised into the tiled buffers."""
        code, factor, size = place(codes, factors, num_columns, token, num_tokens)
        for i in range(0, 4 * num_columns, 2 * VECTOR):
            low = activate(activation, load(gate + i)) * load(up + i)
            high = activate(activation, load(gate + i + VECTOR)) * load(up + i + VECTOR)
            quantize_block(low, high, code, factor, size)
            code += BLOCK * size
            factor += FACTOR_BYTES * size

    quantized = Native(f"{activation} gate, quantised", "iiiiiii", gated_quantize_row)
    return Native(f"{activation} gate", "iiii", gated_row), quantized


# By activation function: (gated_row, gated_quantize_row).
GATED: dict[str, tuple[Native, Native]] = {activation: _gated(activation) for activation in ("silu", "gelu")}


@native("iii")
def rotate_pairs(head, num_pairs, cosines_sines):
    """Rotary embedding of neighbouring pairs (2i, 2i + 1), in place; cosines_sines: [pairs][2]."""
    for pair in range(num_pairs):
        x, y = load_scalar(head + 8 * pair), load_scalar(head + 8 * pair + 4)
        c, s = load_scalar(cosines_sines + 8 * pair), load_scalar(cosines_sines + 8 * pair + 4)
        store_scalar(head + 8 * pair, x * c - y * s)
        store_scalar(head + 8 * pair + 4, x * s + y * c)


@native("iii")
def rotate_halves(head, num_pairs, cosines_sines):
    """Rotary embedding of pairs (i, i + num_pairs), in place; cosines_sines: [pairs][2]."""
    for pair in range(num_pairs):
        low, high = head + 4 * pair, head + 4 * (pair + num_pairs)
        x, y = load_scalar(low), load_scalar(high)
        c, s = load_scalar(cosines_sines + 8 * pair), load_scalar(cosines_sines + 8 * pair + 4)
        store_scalar(low, x * c - y * s)
        store_scalar(high, x * s + y * c)


def _number_row_reader(format: PanelFormat) -> Any:
    name, size = format.name, format.number_bytes

    def read_row(panel, lane, num_columns, out):
        for column in range(num_columns):
            store_scalar(out + 4 * column, load_number(name, panel + (column * LANES + lane) * size))

    return read_row


def _code_row_reader(format: PanelFormat) -> Any:
    layout, code = format.layout, CODES[format.code]
    _, bias, scale_type, has_minimum, span, group, minima, small, small_minima, header_bytes, block_bytes = layout
    scale_bytes, span_bytes, is_small = minima // LANES, layout.span_bytes, span > BLOCK
    planes = tuple((plane.bits, plane.position) for plane in code.planes)
    table, has_table = code.table or (0,), bool(code.table)

    def read_row(panel, lane, num_columns, out):
        for column in range(num_columns):
            start, within = panel + column // span * span_bytes, column % span
            quad, number = within % BLOCK // 4, 0
            block = start + header_bytes + within // BLOCK * block_bytes + 4 * lane + within % 4
            for bits, position in planes:
                packed = load_scalar_u8(block + (position + quad * bits // 8) * QUAD_BYTES)
                number |= (packed >> quad * bits % 8 & (1 << bits) - 1) << position
            if has_table:
                number = table[number]
            value = load_number(scale_type, start + scale_bytes * lane)
            if is_small:
                value *= load_number("I8", start + small + within // group * LANES + lane)
            value *= np.float32(number - bias)
            if has_minimum:
                minimum = load_number("F16", start + minima + 2 * lane)
                if is_small:
                    minimum *= load_number("I8", start + small_minima + within // group * LANES + lane)
                value += minimum
            store_scalar(out + 4 * column, value)

    return read_row


def _row_kernel(format: PanelFormat) -> Native:
    read = _number_row_reader(format) if format.unpack is None else _code_row_reader(format)
    return Native(f"rows of {format.name}", "iiii", read)


# By PanelFormat.name.
ROW_READERS: dict[str, Native] = {format.name: _row_kernel(format) for format in FORMATS.values()}


@kernel
def read_row(matrix, reader, row, out):
    """Writes row number `row` of a packed matrix (a MATRIX record) as f32 [num_columns]: a token's embedding.

    reader: address of the ROW_READERS kernel of its format.
    """
    panel = matrix.panels + row // LANES * matrix.panel_bytes
    call(reader, (panel, row % LANES, matrix.num_columns, out))
