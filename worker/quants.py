"""The tensor types we read: each one's block layout as a NumPy dtype, and the slow, obvious way from blocks to float32.

Called by the GGUF reader (sizes), by the loader (which repacks blocks into panels) and by tests (the truth that kernels
are compared with). Invariant: a dtype's itemsize is exactly the block size of the format, asserted at import.

Field names are those of ggml: d and m are scale and minimum, dmin scales the minima of a super-block, qs / ql / qh hold
codes, their low and their high bits. Nibbles of 16 bytes hold 32 codes: the low ones first, then the high ones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.errors import UnsupportedModel

Floats = NDArray[np.float32]
Blocks = NDArray[Any]  # (blocks,) of a structured dtype, or of a plain one where a block is a single number
Dequantize = Callable[[Blocks], Floats]  # (blocks,) -> (blocks, block_length)

# Codes of the non-linear types. MXFP4's are doubled, so that they are whole; its scale is halved in turn.
IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
MXFP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)


@dataclass(frozen=True)
class QuantType:
    """One tensor type: its id in GGUF files, how many elements a block holds, and the block's layout."""

    id: int
    name: str
    block_length: int
    dtype: np.dtype[Any]
    dequantize_blocks: Dequantize

    def row_bytes(self, length: int) -> int:
        """The size of a row of `length` elements; ValueError if they are not whole blocks."""
        num_blocks, rest = divmod(length, self.block_length)
        if rest:
            raise ValueError(f"a row of {length} elements is not whole blocks of {self.block_length} ({self.name})")
        return num_blocks * self.dtype.itemsize


def dequantize(type: QuantType, data: NDArray[np.uint8], shape: Sequence[int]) -> Floats:
    """The tensor's values; ValueError if `data` does not have the size that `shape` asks for."""
    *outer, length = shape
    expected = int(np.prod(outer, dtype=object)) * type.row_bytes(length)
    if data.nbytes != expected:
        raise ValueError(f"{type.name} data of shape {tuple(shape)} has {data.nbytes} bytes, not {expected}")
    blocks = np.ascontiguousarray(data).reshape(-1).view(type.dtype)
    with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale gives NaN or infinity, for the caller to see
        return type.dequantize_blocks(blocks).reshape(shape)


def quant_type(id: int) -> QuantType:
    """The type with this id; UnsupportedModel names it, and what is supported, if we do not read it."""
    if (known := TYPES.get(id)) is not None:
        return known
    name = UNSUPPORTED.get(id, "unknown to this version")
    raise UnsupportedModel(f"tensor type {id} ({name}) is not supported; supported are {', '.join(BY_NAME)}")


def _scale(field: NDArray[np.float16]) -> Floats:
    """(blocks,) -> (blocks, 1), to multiply codes with."""
    return field.astype(np.float32)[:, None]


def _nibbles(qs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(..., n) bytes -> (..., 2n) codes: all low nibbles, then all high ones."""
    return np.concatenate([qs & 15, qs >> 4], axis=-1)


def _fifth_bits(qh: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """(blocks,) words -> (blocks, 32): bit j of the word is the fifth bit of code j, in its place."""
    return ((qh[:, None] >> np.arange(32, dtype=np.uint32) & 1) << 4).astype(np.uint8)


def _plain(blocks: Blocks) -> Floats:
    return blocks.astype(np.float32)[:, None]


def _bf16(blocks: Blocks) -> Floats:
    return (blocks.astype(np.uint32) << 16).view(np.float32)[:, None]


def _q4_0(blocks: Blocks) -> Floats:
    return _scale(blocks["d"]) * (_nibbles(blocks["qs"]).astype(np.float32) - 8)


def _q4_1(blocks: Blocks) -> Floats:
    return _scale(blocks["d"]) * _nibbles(blocks["qs"]) + _scale(blocks["m"])


def _q5_0(blocks: Blocks) -> Floats:
    codes = _nibbles(blocks["qs"]) | _fifth_bits(blocks["qh"])
    return _scale(blocks["d"]) * (codes.astype(np.float32) - 16)


def _q5_1(blocks: Blocks) -> Floats:
    codes = _nibbles(blocks["qs"]) | _fifth_bits(blocks["qh"])
    return _scale(blocks["d"]) * codes + _scale(blocks["m"])


def _q8_0(blocks: Blocks) -> Floats:
    codes: NDArray[np.int8] = blocks["qs"]
    return _scale(blocks["d"]) * codes


def _two_bits(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(blocks, 64) bytes -> (blocks, 8, 32): of each half of 32 bytes the lowest two bits, then the next two, ..."""
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    return (packed.reshape(-1, 2, 1, 32) >> shifts & np.uint8(3)).reshape(-1, 8, 32)


def _scaled(scales: Floats, codes: NDArray[Any]) -> Floats:
    """(blocks, n) scales times the 256 codes of each block: every scale is for the next 256 / n codes."""
    values: Floats = codes.reshape(*scales.shape, -1).astype(np.float32)
    return (scales[:, :, None] * values).reshape(-1, 256)


def _q2_k(blocks: Blocks) -> Floats:
    packed: NDArray[np.uint8] = blocks["scales"]  # low nibble: the scale, high nibble: the minimum
    scales: Floats = _scale(blocks["d"]) * (packed & 15)
    minima: Floats = _scale(blocks["dmin"]) * (packed >> 4)
    return _scaled(scales, _two_bits(blocks["qs"])) - np.repeat(minima, 16, axis=1)


def _q3_k(blocks: Blocks) -> Floats:
    packed = blocks["scales"]  # 16 numbers of 6 bits: low nibbles in bytes 0..7, their upper two bits in bytes 8..11
    low = _nibbles(packed[:, :8])
    high = (packed[:, None, 8:] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3).reshape(-1, 16)
    scales = (low | high << 4).astype(np.float32) - 32
    # Bit i of hmask[l] belongs to code l of group i; a bit not set takes 4 away.
    third = blocks["hmask"][:, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    codes = _two_bits(blocks["qs"]).astype(np.float32) - 4 * (1 - third.astype(np.float32))
    return _scaled(_scale(blocks["d"]) * scales, codes)


def _scales_and_minima(packed: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Q4_K and Q5_K: (blocks, 12) bytes -> 8 scales and 8 minima of 6 bits each, (blocks, 8)."""
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
    minima = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)
    return scales, minima


def _with_minima(blocks: Blocks, codes: NDArray[np.uint8]) -> Floats:
    """(blocks, 8, 32) codes of Q4_K or Q5_K -> (blocks, 256) values."""
    scales, minima = _scales_and_minima(blocks["scales"])
    return _scaled(_scale(blocks["d"]) * scales, codes) - np.repeat(_scale(blocks["dmin"]) * minima, 32, axis=1)


def _q4_k(blocks: Blocks) -> Floats:
    return _with_minima(blocks, _nibbles(blocks["qs"].reshape(-1, 4, 32)).reshape(-1, 8, 32))


def _q5_k(blocks: Blocks) -> Floats:
    low = _nibbles(blocks["qs"].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    fifth = blocks["qh"][:, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)  # bit i: sub-block i
    return _with_minima(blocks, low | fifth << np.uint8(4))


def _q6_k(blocks: Blocks) -> Floats:
    low = _nibbles(blocks["ql"].reshape(-1, 2, 64)).reshape(-1, 8, 32)
    codes = (low | _two_bits(blocks["qh"]) << 4).astype(np.float32) - 32
    return _scaled(_scale(blocks["d"]) * blocks["scales"], codes)


def _iq4_nl(blocks: Blocks) -> Floats:
    return _scale(blocks["d"]) * IQ4_VALUES[_nibbles(blocks["qs"])]


def _iq4_xs(blocks: Blocks) -> Floats:
    low = np.stack([blocks["scales_l"] & 15, blocks["scales_l"] >> 4], axis=-1).reshape(-1, 8)
    high = (blocks["scales_h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3).astype(np.uint8)
    scales = _scale(blocks["d"]) * ((low | high << 4).astype(np.float32) - 32)
    return _scaled(scales, IQ4_VALUES[_nibbles(blocks["qs"].reshape(-1, 8, 16))])


def _mxfp4(blocks: Blocks) -> Floats:
    scales: Floats = np.ldexp(np.float32(1), blocks["e"].astype(np.int32) - 128)
    return scales[:, None] * MXFP4_VALUES[_nibbles(blocks["qs"])]


def _row(id: int, name: str, length: int, size: int, layout: Any, blocks_to_floats: Dequantize) -> QuantType:
    dtype = np.dtype(layout)
    assert dtype.itemsize == size, f"{name}: a block has {size} bytes, the layout {dtype.itemsize}"
    return QuantType(id, name, length, dtype, blocks_to_floats)


_D, _M, _DMIN = ("d", "<f2"), ("m", "<f2"), ("dmin", "<f2")
_QS16, _QS64, _QS128 = ("qs", "u1", 16), ("qs", "u1", 64), ("qs", "u1", 128)
_SCALES12, _SCALES16 = ("scales", "u1", 12), ("scales", "u1", 16)

# id, name, elements and bytes of a block, layout, dequantisation
_ROWS = (
    _row(0, "F32", 1, 4, "<f4", _plain),
    _row(1, "F16", 1, 2, "<f2", _plain),
    _row(2, "Q4_0", 32, 18, [_D, _QS16], _q4_0),
    _row(3, "Q4_1", 32, 20, [_D, _M, _QS16], _q4_1),
    _row(6, "Q5_0", 32, 22, [_D, ("qh", "<u4"), _QS16], _q5_0),
    _row(7, "Q5_1", 32, 24, [_D, _M, ("qh", "<u4"), _QS16], _q5_1),
    _row(8, "Q8_0", 32, 34, [_D, ("qs", "i1", 32)], _q8_0),
    _row(10, "Q2_K", 256, 84, [_SCALES16, _QS64, _D, _DMIN], _q2_k),
    _row(11, "Q3_K", 256, 110, [("hmask", "u1", 32), _QS64, _SCALES12, _D], _q3_k),
    _row(12, "Q4_K", 256, 144, [_D, _DMIN, _SCALES12, _QS128], _q4_k),
    _row(13, "Q5_K", 256, 176, [_D, _DMIN, _SCALES12, ("qh", "u1", 32), _QS128], _q5_k),
    _row(14, "Q6_K", 256, 210, [("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), _D], _q6_k),
    _row(20, "IQ4_NL", 32, 18, [_D, _QS16], _iq4_nl),
    _row(23, "IQ4_XS", 256, 136, [_D, ("scales_h", "<u2"), ("scales_l", "u1", 4), _QS128], _iq4_xs),
    _row(30, "BF16", 1, 2, "<u2", _bf16),
    _row(39, "MXFP4", 32, 17, [("e", "u1"), _QS16], _mxfp4),
)

TYPES: Mapping[int, QuantType] = {row.id: row for row in _ROWS}
BY_NAME: Mapping[str, QuantType] = {row.name: row for row in _ROWS}

# Types of the format that we do not read, so that the error can call them by name.
UNSUPPORTED: Mapping[int, str] = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    21: "IQ3_S", 22: "IQ2_S", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M",
    34: "TQ1_0", 35: "TQ2_0", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
