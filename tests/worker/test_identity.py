"""What tells one model from another: whatever it computes with, and nothing of the host it is on."""

from pathlib import Path

import pytest

from tests.fixtures_gguf import write_tiny_llama
from tests.tiny_models import MODELS, write_model
from tests.worker.model.models import loaded
from worker.gguf import GGUF
from worker.identity import cache_identity, vocabulary_digest


def identity(path: Path, **settings) -> bytes:
    with loaded(path, **settings) as decoder:
        return cache_identity(decoder)


def change_last_bit(path: Path, tensor: str) -> None:
    with GGUF.open(path) as gguf:
        end = gguf.tensors[tensor].offset + gguf.tensors[tensor].data.nbytes
    with path.open("r+b") as file:
        file.seek(end - 1)
        (last,) = file.read(1)
        file.seek(end - 1)
        file.write(bytes([last ^ 1]))


def test_the_same_file_is_the_same_model(tmp_path):
    path = write_tiny_llama(tmp_path / "model.gguf")
    assert identity(path) == identity(path, num_threads=2)


# None of them has a part in the keys and values of the first tokens.
@pytest.mark.parametrize(
    "tensor",
    ["token_embd.weight", "output_norm.weight", "blk.1.ffn_norm.weight", "blk.1.ffn_down_exps.weight"],
)
def test_one_changed_bit_of_any_tensor_makes_another_model(tmp_path, tensor):
    path = write_model(tmp_path / "model.gguf", MODELS["qwen3moe"], "F32")
    before = identity(path)
    change_last_bit(path, tensor)
    assert identity(path) != before


@pytest.mark.parametrize(
    "metadata",
    [
        {"llama.rope.freq_base": 500.0},
        {"llama.attention.layer_norm_rms_epsilon": 2e-5},
        {"llama.final_logit_softcapping": 3.0},
        {"llama.attention.sliding_window": 64},
    ],
    ids=str,
)
def test_every_number_of_the_file_counts(tmp_path, metadata):
    plain = write_tiny_llama(tmp_path / "plain.gguf")
    assert identity(write_tiny_llama(tmp_path / "other.gguf", metadata=metadata)) != identity(plain)


def test_a_cache_of_another_type_is_told(tmp_path):
    path = write_tiny_llama(tmp_path / "model.gguf")
    assert len({identity(path), identity(path, kv_type_k="f32"), identity(path, kv_type_v="bf16")}) == 3


@pytest.mark.parametrize(("model", "num_identities"), [("phi3, short context", 2), ("llama", 1)])
def test_a_longer_context_makes_another_model_only_where_it_turns_positions_otherwise(tmp_path, model, num_identities):
    path = write_model(tmp_path / "model.gguf", MODELS[model], "F32")
    assert len({identity(path, context_length=length) for length in (64, 1 << 20)}) == num_identities


def test_how_weights_are_packed_makes_no_difference(tmp_path, monkeypatch):
    path = write_tiny_llama(tmp_path / "model.gguf")
    before = identity(path, cache=tmp_path / "one")
    monkeypatch.setattr("worker.model.weights.LAYOUT_VERSION", 99)
    assert identity(path, cache=tmp_path / "two") == before == identity(path, maps_weights=False)
    names = [next((tmp_path / folder).rglob("*.panels")).name for folder in ("one", "two")]
    assert names[0] != names[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer.ggml.pre": "llama-bpe"},
        {"tokenizer.ggml.merges": []},
        {"tokenizer.ggml.eos_token_id": 5},
        {"tokenizer.ggml.add_bos_token": True},
    ],
    ids=str,
)
def test_another_vocabulary_is_told_although_the_weights_are_the_same(tmp_path, changes):
    def facts(name, **metadata):
        path = write_tiny_llama(tmp_path / name, **metadata)
        with GGUF.open(path) as gguf:
            return identity(path), vocabulary_digest(gguf.metadata)

    (weights, vocabulary), again = facts("one.gguf"), facts("two.gguf")
    other_weights, other_vocabulary = facts("three.gguf", metadata=changes)
    assert (weights, vocabulary) == again and weights == other_weights and vocabulary != other_vocabulary
