import struct
from pathlib import Path

import pytest

from router.fleet.ggufhead import VOCABULARY, read_numbers
from tests.tiny_models import MODELS, VOCAB_SIZE, write_model

HUGE = (1 << 64) - 1


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def head(*entries: bytes, magic: bytes = b"GGUF", version: int = 3, num_keys: int | None = None) -> bytes:
    count = len(entries) if num_keys is None else num_keys
    return magic + struct.pack("<IQQ", version, 0, count) + b"".join(entries)


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


LAYERS = entry(b"llama.block_count", 4, struct.pack("<I", 7))
TAGS = entry(b"general.tags", 9, struct.pack("<IQ", 8, 2) + text(b"chat") + text(b"small"))


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mixtral"])
def test_the_numbers_of_a_model_are_found(tmp_path: Path, architecture: str) -> None:
    model = MODELS[architecture]
    numbers = read_numbers(write_model(tmp_path / "tiny.gguf", model))
    assert (numbers["block_count"], numbers["embedding_length"]) == (model.layers, model.width)
    assert (numbers["attention.head_count_kv"], numbers["attention.key_length"]) == (model.kv_heads, model.head_dim)
    assert (numbers[VOCABULARY], numbers.get("expert_count", 0)) == (VOCAB_SIZE, model.experts)


def test_what_is_no_whole_number_is_stepped_over(tmp_path: Path) -> None:
    others = [
        entry(b"general.name", 8, text(b"a name")),
        TAGS,
        entry(b"llama.scales", 9, struct.pack("<IQ", 6, 3) + bytes(12)),
        entry(b"llama.epsilon", 6, struct.pack("<f", float("inf"))),
        entry(b"llama.less", 5, struct.pack("<i", -1)),
    ]
    (tmp_path / "a.gguf").write_bytes(head(*others, LAYERS))
    assert read_numbers(tmp_path / "a.gguf") == {"block_count": 7}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGU",
        head(LAYERS, magic=b"GGML"),
        head(LAYERS, version=1),
        head(LAYERS, num_keys=2),
        head(LAYERS)[:-1],
        head(struct.pack("<Q", HUGE), num_keys=HUGE),
        head(LAYERS, entry(b"a", 8, struct.pack("<Q", HUGE))),
        head(LAYERS, entry(b"a", 9, struct.pack("<IQ", 4, HUGE))),
        head(LAYERS, entry(b"a", 9, struct.pack("<IQ", 8, HUGE))),
        head(LAYERS, entry(b"a", 9, struct.pack("<IQ", 9, 1))),
        head(LAYERS, entry(b"a", 99, b"")),
    ],
)
def test_a_file_that_is_no_good_has_no_numbers(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.gguf").write_bytes(data)
    assert read_numbers(tmp_path / "a.gguf") == {}


def test_a_file_that_is_not_there_has_no_numbers(tmp_path: Path) -> None:
    assert read_numbers(tmp_path / "absent.gguf") == {}
    assert read_numbers(tmp_path) == {}
