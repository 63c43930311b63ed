"""Weight panels: how matrices lie in memory for the kernels, and how they get there from GGUF blocks.

A panel is 16 rows of a matrix, read front to back by every product: decode, batch and prefill share this one layout.
A quantised panel is a sequence of spans, a span being as many k as a block of the file has, 32 or 256:
    scales   [16 rows], f16 or one byte of exponent
    minima   [16 rows] f16, of types that have them
    small scales [span / group][16 rows] int8, of spans of 256, by which the scale is multiplied for `group` k-values
    small minima [span / group][16 rows] int8, likewise
    codes    [span / 32] blocks, as codes.py draws them
and a weight is scale * small scale * (code - bias) + minimum * small minimum. Float panels hold, for each k, the 16
rows' values side by side.

weights.py packs with these functions; matmul.py reads the result. Invariant: packing loses nothing, codes and scales
are those of the file.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.errors import UnsupportedModel
from worker.kernels.codes import BLOCK, CODES, QUADS, Plane
from worker.kernels.simd import LANES

Bytes = NDArray[np.uint8]
_ONE, _TWO, _THREE, _FOUR = (np.uint8(number) for number in (1, 2, 3, 4))
_CODES_AT_ONCE = 1 << 20  # codes that packing holds at a time, so that they stay in the cache


@dataclass(frozen=True)
class Unpacked:
    """What the blocks of some rows consist of."""

    codes: Bytes  # (rows, spans, span), of any shape that can be brought to it
    scales: NDArray[Any]  # (rows, spans)
    minima: NDArray[np.float16] | None = None  # (rows, spans)
    small_scales: NDArray[np.int8] | None = None  # (rows, spans, span / group)
    small_minima: NDArray[np.int8] | None = None


class Layout(NamedTuple):
    """A quantised format in plain constants, for kernels."""

    code: str
    bias: int
    scale: str
    has_minimum: bool
    span: int
    group: int
    minima: int  # offset of the minima in a span
    small: int  # of the small scales
    small_minima: int  # of the small minima
    header_bytes: int  # of the codes
    block_bytes: int  # of the codes of 32 k

    @property
    def span_bytes(self) -> int:
        """Bytes of a span of 16 rows."""
        return self.header_bytes + self.span // BLOCK * self.block_bytes


@dataclass(frozen=True)
class PanelFormat:
    """One panel layout: of numbers if `unpack` is None, else of codes."""

    name: str
    number_bytes: int = 0
    code: str = ""
    bias: int = 0
    has_minimum: bool = False
    span: int = BLOCK
    group: int = BLOCK
    scale: str = "F16"  # or E8M0
    unpack: Callable[[NDArray[Any]], Unpacked] | None = None

    @property
    def layout(self) -> Layout:
        """Where things are in a span of 16 rows; not for numbers."""
        num_small = self.span // self.group if self.span > BLOCK else 0
        minima = LANES * (2 if self.scale == "F16" else 1)
        small = minima + 2 * LANES * self.has_minimum
        small_minima = small + LANES * num_small
        header = small_minima + LANES * num_small * self.has_minimum
        return Layout(self.code, self.bias, self.scale, self.has_minimum, self.span, self.group, minima,
                      small, small_minima, header, CODES[self.code].block_bytes)

    def matrix_bytes(self, num_rows: int, num_columns: int) -> int:
        """Bytes of a matrix; rows are padded to whole panels."""
        num_panels = -(-num_rows // LANES)
        if self.unpack is None:
            return num_panels * num_columns * LANES * self.number_bytes
        return num_panels * (num_columns // self.span) * self.layout.span_bytes


def _nibbles(qs: Bytes) -> Bytes:
    """(..., n) bytes -> (..., 2n) codes: all low nibbles, then all high ones."""
    return np.concatenate([qs & 15, qs >> 4], axis=-1)


def _crumbs(qs: Bytes) -> Bytes:
    """(..., n) bytes -> (..., 4n) codes of two bits: of each 32 bytes the lowest two bits, then the next two, ..."""
    quarters = qs.reshape(*qs.shape[:-1], -1, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & _THREE
    return quarters.reshape(*qs.shape[:-1], -1)


def _bits(qh: Bytes) -> Bytes:
    """(..., 32) bytes -> (..., 256) bits: of all bytes the lowest bit, then the next one, ..."""
    bits = qh[..., None, :] >> np.arange(8, dtype=np.uint8)[:, None] & _ONE
    return bits.reshape(*qh.shape[:-1], -1)


def _halves_of_64(qs: Bytes) -> Bytes:
    """(..., n) bytes -> (..., 2n) codes: of each 32 bytes the low nibbles, then the high ones."""
    return _nibbles(qs.reshape(*qs.shape[:-1], -1, 32)).reshape(*qs.shape[:-1], -1)


def _fifth_bits(blocks: NDArray[Any]) -> Bytes:
    words = np.ascontiguousarray(blocks["qh"])[..., None].view(np.uint8)
    return np.unpackbits(words, axis=-1, bitorder="little")


def _four(blocks: NDArray[Any]) -> Unpacked:
    return Unpacked(_nibbles(blocks["qs"]), blocks["d"])


def _four_with_minimum(blocks: NDArray[Any]) -> Unpacked:
    return Unpacked(_nibbles(blocks["qs"]), blocks["d"], blocks["m"])


def _five(blocks: NDArray[Any]) -> Unpacked:
    return Unpacked(_nibbles(blocks["qs"]) | _fifth_bits(blocks) << _FOUR, blocks["d"])


def _five_with_minimum(blocks: NDArray[Any]) -> Unpacked:
    return Unpacked(_nibbles(blocks["qs"]) | _fifth_bits(blocks) << _FOUR, blocks["d"], blocks["m"])


def _eight(blocks: NDArray[Any]) -> Unpacked:
    return Unpacked(blocks["qs"].view(np.uint8) ^ np.uint8(0x80), blocks["d"])


def _exponents(blocks: NDArray[Any]) -> Unpacked:
    return Unpacked(_nibbles(blocks["qs"]), blocks["e"])


def _q2_k(blocks: NDArray[Any]) -> Unpacked:
    packed = blocks["scales"].view(np.int8)
    return Unpacked(_crumbs(blocks["qs"]), blocks["d"], -blocks["dmin"], packed & 15, packed >> 4 & 15)


def _q3_k(blocks: NDArray[Any]) -> Unpacked:
    packed = blocks["scales"]  # 16 numbers of 6 bits: low nibbles in bytes 0..7, their upper two bits in bytes 8..11
    high = packed[..., None, 8:] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    scales = (_nibbles(packed[..., :8]) | high.reshape(*packed.shape[:-1], 16) << 4).view(np.int8) - np.int8(32)
    return Unpacked(_crumbs(blocks["qs"]) | _bits(blocks["hmask"]) << _TWO, blocks["d"], small_scales=scales)


def _with_six_bit_scales(codes: Bytes, blocks: NDArray[Any]) -> Unpacked:
    packed = blocks["scales"].view(np.int8)
    first, second, third = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    scales = np.concatenate([first & 63, third & 15 | first >> 2 & 48], axis=-1)
    minima = np.concatenate([second & 63, third >> 4 & 15 | second >> 2 & 48], axis=-1)
    return Unpacked(codes, blocks["d"], -blocks["dmin"], scales, minima)


def _q4_k(blocks: NDArray[Any]) -> Unpacked:
    return _with_six_bit_scales(_halves_of_64(blocks["qs"]), blocks)


def _q5_k(blocks: NDArray[Any]) -> Unpacked:
    return _with_six_bit_scales(_halves_of_64(blocks["qs"]) | _bits(blocks["qh"]) << _FOUR, blocks)


def _q6_k(blocks: NDArray[Any]) -> Unpacked:
    low = blocks["ql"].reshape(*blocks.shape, 2, 64)
    codes = _nibbles(low).reshape(*blocks.shape, 256) | _crumbs(blocks["qh"]) << _FOUR
    return Unpacked(codes, blocks["d"], small_scales=blocks["scales"])


def _iq4_xs(blocks: NDArray[Any]) -> Unpacked:
    low = np.stack([blocks["scales_l"] & 15, blocks["scales_l"] >> 4], axis=-1).reshape(*blocks.shape, 8)
    high = (blocks["scales_h"][..., None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3).astype(np.uint8)
    scales = (low | high << 4).view(np.int8) - np.int8(32)
    codes = _nibbles(blocks["qs"].reshape(*blocks.shape, 8, 16))
    return Unpacked(codes, blocks["d"], small_scales=scales)


# Named after the tensor types they hold.
FORMATS: dict[str, PanelFormat] = {
    format.name: format
    for format in (
        PanelFormat("F32", 4),
        PanelFormat("F16", 2),
        PanelFormat("BF16", 2),
        PanelFormat("Q4_0", code="4", bias=8, unpack=_four),
        PanelFormat("Q4_1", code="4", has_minimum=True, unpack=_four_with_minimum),
        PanelFormat("Q5_0", code="5", bias=16, unpack=_five),
        PanelFormat("Q5_1", code="5", has_minimum=True, unpack=_five_with_minimum),
        PanelFormat("Q8_0", code="8", bias=128, unpack=_eight),
        PanelFormat("IQ4_NL", code="IQ4", bias=128, unpack=_four),
        PanelFormat("MXFP4", code="MXFP4", bias=12, scale="E8M0", unpack=_exponents),
        PanelFormat("Q2_K", code="2", has_minimum=True, span=256, group=16, unpack=_q2_k),
        PanelFormat("Q3_K", code="3", bias=4, span=256, group=16, unpack=_q3_k),
        PanelFormat("Q4_K", code="4", has_minimum=True, span=256, unpack=_q4_k),
        PanelFormat("Q5_K", code="5", has_minimum=True, span=256, unpack=_q5_k),
        PanelFormat("Q6_K", code="6", bias=32, span=256, group=16, unpack=_q6_k),
        PanelFormat("IQ4_XS", code="IQ4", bias=128, span=256, unpack=_iq4_xs),
    )
}


def panel_format(tensor_name: str, type_name: str, num_columns: int) -> PanelFormat:
    """The layout for a tensor type; UnsupportedModel if there is none, or its rows are not whole spans."""
    if type_name not in FORMATS:
        raise UnsupportedModel(
            f"tensor {tensor_name} has type {type_name}, which has no kernel; supported: {', '.join(FORMATS)}"
        )
    format = FORMATS[type_name]
    if num_columns % format.span:
        raise UnsupportedModel(
            f"tensor {tensor_name} has rows of {num_columns} values, not a multiple of {format.span}"
        )
    return format


def pack(format: PanelFormat, blocks: NDArray[Any], out: Bytes) -> None:
    """Writes panels.

    blocks: (rows, blocks per row) of the type's dtype, or (rows, columns) of plain numbers for float formats;
    out: (matrix_bytes,). Rows that pad the last panel become zero.
    """
    panels = out.reshape(-(-blocks.shape[0] // LANES), -1)
    write = _pack_floats if format.unpack is None else _pack_codes
    at_once = max(1, _CODES_AT_ONCE // (LANES * blocks.shape[1] * (1 if format.unpack is None else format.span)))
    for first, rows in _whole_panels(blocks, at_once):
        write(format, rows, panels[first : first + rows.shape[0] // LANES])


def _whole_panels(blocks: NDArray[Any], at_once: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first panel, rows of up to `at_once` panels); zeros fill up the last one."""
    for first in range(0, blocks.shape[0], LANES * at_once):
        rows = blocks[first : first + LANES * at_once]
        if missing := -rows.shape[0] % LANES:
            rows = np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)])
        yield first // LANES, rows


def _pack_floats(format: PanelFormat, values: NDArray[Any], panels: Bytes) -> None:
    num_rows, num_columns = values.shape
    numbers = panels.view(values.dtype).reshape(num_rows // LANES, num_columns, LANES)
    numbers[:] = values.reshape(num_rows // LANES, LANES, num_columns).transpose(0, 2, 1)


def _pack_codes(format: PanelFormat, blocks: NDArray[Any], panels: Bytes) -> None:
    assert format.unpack is not None
    num_panels, num_spans = blocks.shape[0] // LANES, blocks.shape[1]
    unpacked = format.unpack(blocks)
    spans = panels.reshape(num_panels, num_spans, -1)
    end = 0
    for factors in (unpacked.scales, unpacked.minima, unpacked.small_scales, unpacked.small_minima):
        if factors is not None:
            by_row = factors.reshape(num_panels, LANES, num_spans, -1)
            rows_last = np.ascontiguousarray(by_row.transpose(0, 2, 3, 1)).view(np.uint8)
            num_bytes = rows_last[0, 0].size  # of (groups, rows)
            spans[:, :, end : end + num_bytes] = rows_last.reshape(num_panels, num_spans, num_bytes)
            end += num_bytes
    quads = np.ascontiguousarray(unpacked.codes).view(np.uint32).reshape(num_panels, LANES, num_spans, -1, QUADS)
    lanes = np.ascontiguousarray(quads.transpose(0, 2, 3, 4, 1))  # (panels, spans, blocks, quads, rows)
    codes = [_pack_plane(lanes, plane) for plane in CODES[format.code].planes]
    spans[:, :, end:] = np.concatenate(codes, axis=3).view(np.uint8).reshape(num_panels, num_spans, -1)


def _pack_plane(lanes: NDArray[np.uint32], plane: Plane) -> NDArray[np.uint32]:
    """(..., quads, rows) -> (..., vectors, rows)."""
    step = plane.quads_per_vector
    fields = lanes >> np.uint32(plane.position) & np.uint32(0x01010101 * (2**plane.bits - 1))
    packed = fields[..., 0::step, :]
    for place in range(1, step):
        packed = packed | fields[..., place::step, :] << np.uint32(plane.shift(place))
    return packed
