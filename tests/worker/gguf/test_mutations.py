"""Whatever is done to a file, it is read whole or refused."""

import tracemalloc
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.worker.gguf.bytewise import (
    ARRAY,
    BOOL,
    GOOD,
    MEBIBYTE,
    STRINGS,
    U32,
    Tensor,
    array,
    file,
    key,
    split_keys,
    u32,
    u64,
)
from worker.errors import ModelFileError
from worker.gguf import GGUF
from worker.metadata import ValueType
from worker.quants import dequantize

SEEDS = (
    GOOD,
    file([key("general.alignment", U32, u32(64)), *split_keys(0, 1, 1), STRINGS], [Tensor()], bytes(16), alignment=64),
    file([key("k", ARRAY, array(BOOL, 4, b"\0\1\1\0")), key("f", ValueType.FLOAT64, bytes(8))]),
)

EDGES = [0, 1, 2, 3, 7, 255, 1 << 31, (1 << 32) - 1, 1 << 62, 1 << 63, (1 << 64) - 1]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good file in which some bytes or numbers were replaced, inserted or cut out."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.sampled_from(range(8, max(9, len(content)))))  # magic and version have their own tests
        new = draw(st.one_of(st.binary(min_size=0, max_size=12), st.sampled_from(EDGES).map(u64)))
        content[at : at + draw(st.sampled_from([0, len(new), 8, 64]))] = new
    return bytes(content)


def read_everything(model: GGUF) -> Any:
    return [dequantize(tensor.type, tensor.data, tensor.shape) for tensor in model.tensors.values()]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=mutated())
def test_whatever_was_done_to_a_file_it_is_read_whole_or_refused_by_one_line(path, content):
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with GGUF.open(path) as model:
            read_everything(model)
    except ModelFileError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEBIBYTE
