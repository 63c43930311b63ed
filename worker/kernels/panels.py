"""Weight panels: how matrices lie in memory for the kernels, and how they get there from GGUF blocks.

A panel is 16 rows of a matrix, read front to back by every product: decode, batch and prefill share this one layout.
Quantised panels are blocks of 32 k: the codes (simd.py draws them), unsigned, at 4 or 8 bits; 16 f16 scales; and for
types with a minimum 16 f16 minima. Signed types are stored with a bias that the product takes off through the
activation's block sums. Float panels hold, for each k, the 16 rows' values side by side.

load.py packs with these functions; matmul.py reads the result. Invariant: packing loses nothing, codes and scales are
those of the file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.errors import UnsupportedModel
from worker.kernels.simd import LANES

Bytes = NDArray[np.uint8]
BLOCK = 32  # k-values that share a scale
SCALES = 2 * LANES  # bytes of 16 f16


@dataclass(frozen=True)
class Codes:
    """What unpacking a quantised tensor gives: value = scale * (code - bias) + minimum."""

    codes: Bytes  # (rows, blocks, 32)
    scales: NDArray[np.float16]  # (rows, blocks)
    minima: NDArray[np.float16] | None  # (rows, blocks)


@dataclass(frozen=True)
class PanelFormat:
    """One panel layout. `unpack` is None for floats, whose `bits` are those of a number."""

    id: int
    name: str
    bits: int
    bias: int
    has_minimum: bool
    unpack: Callable[[NDArray[Any]], Codes] | None

    @property
    def code_bytes(self) -> int:
        """Bytes of codes in a block of 16 rows."""
        return LANES * BLOCK * self.bits // 8

    @property
    def block_bytes(self) -> int:
        """Bytes of a block of 16 rows, with its scales and minima."""
        return self.code_bytes + (0 if self.unpack is None else SCALES * (1 + self.has_minimum))

    def matrix_bytes(self, num_rows: int, num_columns: int) -> int:
        """Bytes of a matrix; rows are padded to whole panels."""
        return -(-num_rows // LANES) * (num_columns // BLOCK) * self.block_bytes


def _unpack_q4_1(blocks: NDArray[Any]) -> Codes:
    qs = blocks["qs"]
    return Codes(np.concatenate([qs & 15, qs >> 4], axis=-1), blocks["d"], blocks["m"])


def _unpack_q8_0(blocks: NDArray[Any]) -> Codes:
    return Codes(blocks["qs"].view(np.uint8) ^ 0x80, blocks["d"], None)


# Named after the tensor types they hold.
FORMATS: dict[str, PanelFormat] = {
    format.name: format
    for format in (
        PanelFormat(0, "F32", 32, 0, False, None),
        PanelFormat(1, "F16", 16, 0, False, None),
        PanelFormat(2, "BF16", 16, 0, False, None),
        PanelFormat(3, "Q4_1", 4, 0, True, _unpack_q4_1),
        PanelFormat(4, "Q8_0", 8, 128, False, _unpack_q8_0),
    )
}


def panel_format(tensor_name: str, type_name: str, num_columns: int) -> PanelFormat:
    """The layout for a tensor type; UnsupportedModel if there is none, or its rows are not whole blocks."""
    if type_name not in FORMATS:
        raise UnsupportedModel(
            f"tensor {tensor_name} has type {type_name}, which has no kernel; supported: {', '.join(FORMATS)}"
        )
    if num_columns % BLOCK:
        raise UnsupportedModel(f"tensor {tensor_name} has rows of {num_columns} values, not a multiple of {BLOCK}")
    return FORMATS[type_name]


def pack(format: PanelFormat, blocks: NDArray[Any], out: Bytes) -> None:
    """Writes panels.

    blocks: (rows, blocks per row) of the type's dtype, or (rows, columns) of plain numbers for float formats;
    out: (matrix_bytes,), where rows that pad the last panel are left as they are (zero in a fresh buffer).
    """
    num_whole = blocks.shape[0] // LANES * LANES
    panel_bytes = out.size // -(-blocks.shape[0] // LANES)
    write = _pack_floats if format.unpack is None else _pack_codes
    write(format, blocks[:num_whole], out[: num_whole // LANES * panel_bytes])
    if rest := blocks.shape[0] - num_whole:
        padded = np.zeros((LANES, *blocks.shape[1:]), blocks.dtype)
        padded[:rest] = blocks[num_whole:]
        write(format, padded, out[num_whole // LANES * panel_bytes :])


def _pack_floats(format: PanelFormat, values: NDArray[Any], out: Bytes) -> None:
    num_rows, num_columns = values.shape
    panels = out.view(values.dtype).reshape(num_rows // LANES, num_columns, LANES)
    panels[:] = values.reshape(num_rows // LANES, LANES, num_columns).transpose(0, 2, 1)


def _pack_codes(format: PanelFormat, blocks: NDArray[Any], out: Bytes) -> None:
    assert format.unpack is not None
    num_rows, num_blocks = blocks.shape
    num_panels = num_rows // LANES
    panels = out.reshape(num_panels, num_blocks, format.block_bytes)
    unpacked = format.unpack(blocks)
    by_lane = np.ascontiguousarray(unpacked.codes).view(np.uint32)  # (rows, blocks, 8 quads)
    quads = by_lane.reshape(num_panels, LANES, num_blocks, 8).transpose(0, 2, 3, 1)  # (panels, blocks, quads, rows)
    if format.bits == 4:
        quads = quads[:, :, 0::2] | quads[:, :, 1::2] << np.uint32(4)
    end = format.code_bytes
    panels[:, :, :end] = np.ascontiguousarray(quads).view(np.uint8).reshape(num_panels, num_blocks, end)
    for factors in (unpacked.scales, unpacked.minima):
        if factors is not None:
            rows_last = factors.reshape(num_panels, LANES, num_blocks).transpose(0, 2, 1)
            panels[:, :, end : end + SCALES] = np.ascontiguousarray(rows_last).view(np.uint8).reshape(
                num_panels, num_blocks, SCALES
            )
            end += SCALES
