"""Loads and stores: every value comes from its place and goes to its place."""

import numpy as np
from numba import types

from tests.worker.kernels.callers import compiled
from worker.kernels import memory
from worker.kernels.jit import entry
from worker.kernels.simd import pick, repeated, round_even


@entry(types.void(types.intp, types.intp))
def memory_operations(x, out):
    """What is stored narrower than f32, and numbers spread over vectors, from 32 f32 at x."""
    whole = round_even(memory.load(x))
    memory.store_i8(out, whole)
    memory.store_scalar_f16(out + 48, memory.load_scalar(x))
    memory.store_rows(out + 64, 64, memory.load_rows(x, 8, 3) * memory.splats(x, 3))
    memory.store(out + 256, pick(memory.splats_strided(x, 12, 4), 3))
    memory.scatter_bytes(out + 320, 3, whole)
    memory.store_columns(out + 384, 128, 3, repeated(memory.load_rows(x, 16, 2), 3) * memory.splats(x, 3))


def test_memory_operations_put_every_value_in_its_place():
    x = np.random.default_rng(5).uniform(-120, 120, 32).astype(np.float32)
    out = np.zeros(384 + 3 * 128, np.uint8)
    compiled(memory_operations)(x.ctypes.data, out.ctypes.data)
    whole = np.rint(x[:16]).astype(np.int8)
    np.testing.assert_array_equal(out[:16].view(np.int8), whole)
    assert out[48:50].view(np.float16)[0] == np.float16(x[0])
    rows = np.stack([x[2 * i : 2 * i + 16] * x[i] for i in range(3)])
    np.testing.assert_array_equal(out[64:256].view(np.float32).reshape(3, 16), rows)
    np.testing.assert_array_equal(out[256:320].view(np.float32), np.full(16, x[9]))
    columns = [np.concatenate([x[:16] * x[i], x[4:20] * x[i]]) for i in range(3)]  # of each row
    np.testing.assert_array_equal(out[384:].view(np.float32).reshape(3, 32), columns)
    np.testing.assert_array_equal(out[320:368].view(np.int8).reshape(16, 3), whole[:, None] * [1, 0, 0])
