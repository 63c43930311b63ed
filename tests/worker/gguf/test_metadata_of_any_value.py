"""Every key that tokenizer, template, architecture and rotation ask for, with values no file should have.

Which keys those are is learnt by watching a good file being read.
"""

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from tests.parity.corpus import score_vocabulary
from tests.tiny_models import MODELS, VOCAB_SIZE, write_model
from worker.errors import WorkerError
from worker.file_types import file_type_name
from worker.gguf import GGUF
from worker.model.architecture import read_architecture
from worker.model.load import check_tensors
from worker.model.rotation import rotation_table
from worker.prompt import PromptReader
from worker.text.chat_template import ChatTemplate
from worker.text.tokenizer import Tokenizer

Read = Callable[[Mapping[str, Any]], None]

SCALARS = [0, -1, 1, 1 << 40, 1 << 63, 0.0, -1.5, 1e300, float("nan"), float("inf"), "", "x", True, False]
ARRAYS = [
    [], [b"a", b"b"], np.array([], np.int32), np.array([1, 2]), np.array([1 << 62]), np.array([1.5, float("nan")]),
    np.array([1e300] * VOCAB_SIZE), np.array([True] * VOCAB_SIZE),
]  # fmt: skip
ARCHITECTURES = ("llama, yarn", "gemma2", "gemma3", "phi3, short context", "mixtral", "qwen3moe")


class Watched(dict[str, Any]):
    """Metadata that remembers what it was asked for."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)


def read_texts(metadata: Mapping[str, Any]) -> None:
    tokenizer = Tokenizer(metadata)
    PromptReader(tokenizer, ChatTemplate.from_metadata(metadata, tokenizer))
    tokenizer.decode([token for token in tokenizer.encode("hello world") if token < tokenizer.vocab_size])
    assert file_type_name(metadata)


def read_numbers(gguf: GGUF) -> Read:
    def read(metadata: Mapping[str, Any]) -> None:
        architecture = read_architecture(metadata, VOCAB_SIZE)
        check_tensors(gguf, architecture)
        for rotation in (architecture.rotation, architecture.local_rotation):
            assert np.isfinite(rotation_table(rotation, 16)).all()

    return read


def read_with_every_value(good: Mapping[str, Any], read: Read) -> None:
    """Each key in turn, so that whatever is not refused is read on to the end."""
    watched = Watched(good)
    read(watched)
    for key in sorted(watched.asked):
        for value in (*SCALARS, *ARRAYS):
            try:
                read(MappingProxyType({**good, key: value}))
            except WorkerError as error:
                assert "\n" not in str(error), key
            except BaseException as error:
                raise AssertionError(f"{key} = {value!r}") from error


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_whatever_a_key_of_the_architecture_holds_it_is_used_or_refused_by_one_line(path, name):
    with GGUF.open(write_model(path, MODELS[name])) as gguf:
        read_with_every_value(gguf.metadata, read_numbers(gguf))


def test_whatever_a_key_of_byte_pairs_holds_it_is_used_or_refused_by_one_line(path):
    with GGUF.open(write_model(path, MODELS["llama"])) as gguf:
        read_with_every_value(gguf.metadata, read_texts)


def test_whatever_a_key_of_a_scored_vocabulary_holds_it_is_used_or_refused_by_one_line():
    read_with_every_value(score_vocabulary(), read_texts)
