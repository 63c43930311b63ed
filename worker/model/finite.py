"""Looks for weights that are no numbers, as a damaged file or a failed conversion has them.

load.py calls it for --check-tensors: it reads the whole file. Invariant: what passes dequantises to finite values.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.errors import GGUFError
from worker.gguf import GGUF, TensorInfo

_BLOCKS_AT_ONCE = 1 << 20
_BF16_EXPONENT = 0x7F80
_MXFP4_NAN = 0xFF  # an exponent that stands for no number


def check_finite(gguf: GGUF) -> None:
    """Raises GGUFError naming the first tensor with a NaN or an infinity, and the place in it."""
    for tensor in gguf.tensors.values():
        blocks = tensor.data.view(tensor.type.dtype)
        for first in range(0, blocks.size, _BLOCKS_AT_ONCE):
            part = blocks[first : first + _BLOCKS_AT_ONCE]
            for field, wrong in _wrong(tensor, part):
                if wrong.any():
                    raise GGUFError(_complaint(tensor, field, first + int(wrong.argmax())))
        gguf.release(tensor)


def _wrong(tensor: TensorInfo, blocks: NDArray[Any]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """For each field of a block that holds a number: which blocks have none there. A plain number's name is empty."""
    if tensor.type.name == "BF16":
        yield "", (blocks & _BF16_EXPONENT) == _BF16_EXPONENT
    elif blocks.dtype.names is None:
        yield "", ~np.isfinite(blocks)
    elif tensor.type.name == "MXFP4":
        yield "e", blocks["e"] == _MXFP4_NAN
    else:
        for field in blocks.dtype.names:
            if blocks.dtype[field].kind == "f":
                yield field, ~np.isfinite(blocks[field])


def _complaint(tensor: TensorInfo, field: str, block: int) -> str:
    index = np.unravel_index(block * tensor.type.block_length, tensor.shape)
    place = ", ".join(str(int(part)) for part in index)
    what = f"the scale '{field}' of the block" if field else "the value"
    return f"tensor {tensor.name} ({tensor.type.name}): {what} at [{place}] is no finite number"
