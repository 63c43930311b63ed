"""How tests call kernels, and matrices for them to read.

A Native is called at its address through ctypes; what lies below Natives, through small entries of the test modules.
All of it is compiled once for each version of the kernels: numba keeps it in the user's cache.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from tests.fixtures_gguf import random_tensor
from worker.kernels import panels
from worker.kernels.jit import Entry, Native
from worker.kernels.simd import LANES
from worker.quants import BY_NAME, dequantize

# What matmul and read_row ask of a matrix's record.
RECORD = np.dtype([(name, np.int64) for name in ("product", "panels", "panel_bytes", "num_panels", "num_columns")])
RECORDS = types.Array(numba.from_dtype(RECORD), 1, "C")

QUANTISED = [name for name, format in panels.FORMATS.items() if format.unpack is not None]
FLOATS = [name for name, format in panels.FORMATS.items() if format.unpack is None]


def run(kernel: Native, *arguments: Any) -> None:
    """Calls a Native: arrays go by address, floats as f32, everything else as int64."""
    kernel.compile()
    values = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments]
    kinds = [ctypes.c_float if isinstance(value, float | np.floating) else ctypes.c_int64 for value in values]
    ctypes.CFUNCTYPE(None, *kinds)(kernel.address)(*values)


def compiled(kernel: Entry) -> Entry:
    kernel.compile()
    return kernel


@dataclass(frozen=True)
class Matrix:
    """A packed matrix and what it holds."""

    format: panels.PanelFormat
    panels: NDArray[np.uint8]
    values: NDArray[np.float32]  # (rows, columns), dequantised

    @property
    def num_panels(self) -> int:
        return -(-len(self.values) // LANES)

    @property
    def panel_bytes(self) -> int:
        return self.panels.size // self.num_panels

    def record(self, product: int = 0) -> NDArray[Any]:
        """(1,) RECORD; product: address of the native code."""
        facts = (product, self.panels.ctypes.data, self.panel_bytes, self.num_panels, self.values.shape[1])
        return np.array([facts], RECORD)


def block_length(name: str) -> int:
    """Columns of the smallest matrix of a type."""
    return panels.FORMATS[name].span


def random_blocks(name: str, num_rows: int, num_columns: int, seed: int = 0) -> NDArray[Any]:
    """(rows, blocks) of the type's dtype; plain numbers for floats."""
    data = random_tensor(np.random.default_rng(seed), name, num_rows, num_columns)
    return np.ascontiguousarray(data).view(np.uint8).reshape(num_rows, -1).view(BY_NAME[name].dtype)


def pack(name: str, blocks: NDArray[Any]) -> Matrix:
    num_rows, num_columns = blocks.shape[0], blocks.shape[1] * BY_NAME[name].block_length
    format = panels.panel_format("test.weight", name, num_columns)
    packed = np.zeros(format.matrix_bytes(num_rows, num_columns), np.uint8)
    panels.pack(format, blocks, packed)
    values = dequantize(BY_NAME[name], np.ascontiguousarray(blocks).view(np.uint8).reshape(-1), (num_rows, num_columns))
    return Matrix(format, packed, values)


def random_matrix(name: str, num_rows: int, num_columns: int, seed: int = 0) -> Matrix:
    return pack(name, random_blocks(name, num_rows, num_columns, seed))
