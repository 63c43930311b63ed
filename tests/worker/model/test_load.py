"""From file to decoder: what does not fit is named in one line; what fits reports its progress."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures_gguf import write_tiny_llama
from tests.tiny_models import MODELS, write_model
from tests.worker.model.models import load
from worker.config import WorkerConfig
from worker.errors import GGUFError, ModelFileError, UnsupportedModel
from worker.gguf import GGUF, TensorInfo
from worker.model.load import load_model, usable_cores

WRONG: dict[str, tuple[dict[str, Any], type[ModelFileError], str]] = {
    "layers that are not there": ({"llama.block_count": 3}, GGUFError, "tensor blk.2.attn_norm.weight is missing"),
    "wider layers": (
        {"llama.feed_forward_length": 160}, GGUFError,
        "tensor blk.0.ffn_gate.weight has shape (128, 64), expected (160, 64)",
    ),
    "fewer heads": (
        {"llama.attention.head_count_kv": 1}, GGUFError,
        "tensor blk.0.attn_k.weight has shape (32, 64), expected (16, 64)",
    ),
    "another width": (
        {"llama.embedding_length": 128}, GGUFError,
        "tensor token_embd.weight has shape (384, 64), expected (384, 128)",
    ),
    "experts without a number of those to use": (
        {"llama.expert_count": 8}, GGUFError, "metadata key llama.expert_used_count is missing",
    ),
    "a rope scaling of another kind": (
        {"llama.rope.scaling.type": "spiral"}, UnsupportedModel, "rope scaling 'spiral' is not supported; supported: ",
    ),
    "a number for a rope scaling": (
        {"llama.rope.scaling.type": [1, 2]}, GGUFError, "metadata key llama.rope.scaling.type is [1, 2], not a text",
    ),
    "more tokens than embeddings": (
        {"tokenizer.ggml.tokens": [str(token) for token in range(385)]}, GGUFError,
        "tokenizer.ggml.tokens has 385 tokens, token_embd.weight rows for 384",
    ),
    "a missing number": ({"llama.block_count": None}, GGUFError, "metadata key llama.block_count is missing"),
    "a word for a number": (
        {"llama.attention.head_count": "four"}, GGUFError,
        "metadata key llama.attention.head_count is 'four', not a whole number",
    ),
    "a truth for a number": (
        {"llama.context_length": True}, GGUFError, "metadata key llama.context_length is True, not a whole number",
    ),
    "no heads": (
        {"llama.attention.head_count": 0}, GGUFError,
        "metadata key llama.attention.head_count is 0, outside 1 to ",
    ),
    "a fraction of a layer": (
        {"llama.block_count": 2.5}, GGUFError, "metadata key llama.block_count is 2.5, not a whole number",
    ),
    "a number for each of many layers": (
        {"llama.attention.head_count_kv": [2] * 100}, GGUFError,
        "metadata key llama.attention.head_count_kv is [2, 2, 2, 2, 2, ",
    ),
    "a word for a base": (
        {"llama.rope.freq_base": "e"}, GGUFError, "metadata key llama.rope.freq_base is 'e', not a number",
    ),
    "no epsilon": (
        {"llama.attention.layer_norm_rms_epsilon": float("nan")}, GGUFError,
        "metadata key llama.attention.layer_norm_rms_epsilon is nan, outside 0 to 1",
    ),
    "odd heads": (
        {"llama.attention.head_count": 3}, UnsupportedModel,
        "this llama model cannot be run: head size 21 is not a multiple of 16",
    ),
    "heads that cannot share": (
        {"llama.attention.head_count_kv": 3}, UnsupportedModel,
        "this llama model cannot be run: 4 heads cannot share 3 key-value heads evenly",
    ),
    "values of another size": (
        {"llama.attention.value_length": 32}, UnsupportedModel,
        "this llama model cannot be run: head size 16 differs from value size 32",
    ),
    "more rotation than head": (
        {"llama.rope.dimension_count": 32}, UnsupportedModel,
        "this llama model cannot be run: 32 rotary dimensions do not fit heads of 16",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("metadata", "error", "message"), WRONG.values(), ids=WRONG)
def test_metadata_that_does_not_fit_is_named_in_one_line(tmp_path, metadata, error, message):
    path = write_tiny_llama(tmp_path / "model.gguf", metadata=metadata)
    with pytest.raises(error) as caught:
        load(path)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


WRONG_EXPERTS: dict[str, tuple[str, dict[str, Any], type[ModelFileError], str]] = {
    "more used than there are": (
        "mixtral", {"expert_used_count": 9}, GGUFError, "metadata key llama.expert_used_count is 9, outside 1 to 8",
    ),
    "none used": (
        "mixtral", {"expert_used_count": 0}, GGUFError, "metadata key llama.expert_used_count is 0, outside 1 to 8",
    ),
    "none where there must be some": (
        "qwen3moe", {"expert_count": 0}, GGUFError, "metadata key qwen3moe.expert_count is 0, outside 1 to ",
    ),
    "not a word of them": (
        "qwen3moe", {"expert_count": None}, GGUFError, "metadata key qwen3moe.expert_count is missing",
    ),
    "more than the tensors hold": (
        "mixtral", {"expert_count": 16}, GGUFError,
        "tensor blk.0.ffn_gate_inp.weight has shape (8, 64), expected (16, 64)",
    ),
    "wider than the tensors": (
        "qwen3moe", {"expert_feed_forward_length": 64}, GGUFError,
        "tensor blk.0.ffn_gate_exps.weight has shape (20, 32, 64), expected (20, 64, 64)",
    ),
    "of a width that is no block": (
        "qwen3moe", {"expert_feed_forward_length": 40}, UnsupportedModel,
        "this qwen3moe model cannot be run: feed-forward length 40 is not a multiple of 32",
    ),
    "in an architecture that has none": (
        "qwen2", {"expert_count": 4, "expert_used_count": 2}, UnsupportedModel, "qwen2 with 4 experts is not supported",
    ),
    "weighed by another function": (
        "mixtral", {"expert_gating_func": 2}, UnsupportedModel,
        "llama.expert_gating_func 2 is not supported; supported: 1 (softmax)",
    ),
    "normalised in two ways": (
        "mixtral", {"expert_weights_norm": [True, False]}, GGUFError,
        "metadata key llama.expert_weights_norm is [True, False], not true or false",
    ),
    "not normalised": (
        "qwen3moe", {"expert_weights_norm": False}, UnsupportedModel,
        "qwen3moe with qwen3moe.expert_weights_norm false is not supported",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "metadata", "error", "message"), WRONG_EXPERTS.values(), ids=WRONG_EXPERTS)
def test_experts_that_do_not_fit_are_named_in_one_line(tmp_path, name, metadata, error, message):
    model = replace(MODELS[name], metadata={**MODELS[name].metadata, **metadata})
    with pytest.raises(error) as caught:
        load(write_model(tmp_path / "model.gguf", model))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_file_with_a_tensor_for_each_expert_is_refused_with_what_to_do(tmp_path):
    with GGUF.open(write_model(tmp_path / "model.gguf", MODELS["mixtral"])) as gguf:
        tensor = gguf.tensors["blk.0.ffn_up_exps.weight"]
        gguf.tensors = {**gguf.tensors, "blk.0.ffn_up.3.weight": tensor}
        with pytest.raises(UnsupportedModel, match=r"^tensor blk\.0\.ffn_up\.3\.weight holds one expert .* convert"):
            load_model(gguf, WorkerConfig(tmp_path, ""), lambda stage, done: None)


def test_every_architecture_that_is_supported_is_named_where_another_is_refused(tmp_path):
    path = write_tiny_llama(tmp_path / "model.gguf", metadata={"general.architecture": "mamba"})
    with pytest.raises(UnsupportedModel) as caught:
        load(path)
    supported = "llama, qwen2, qwen3, qwen3moe, phi3, gemma2, gemma3"
    assert str(caught.value) == f"architecture 'mamba' is not supported; supported: {supported}"


@pytest.mark.parametrize("name", ["token_embd.weight", "output_norm.weight", "blk.1.ffn_down.weight"])
def test_a_missing_tensor_is_named(tmp_path, name):
    with GGUF.open(write_tiny_llama(tmp_path / "model.gguf")) as gguf:
        gguf.tensors = {other: tensor for other, tensor in gguf.tensors.items() if other != name}
        with pytest.raises(GGUFError, match=f"^tensor {name} is missing$"):
            load_model(gguf, WorkerConfig(tmp_path, ""), lambda stage, done: None)


@pytest.mark.parametrize("name", ["output.weight", "blk.1.attn_output.weight", "blk.0.ffn_norm.weight"])
def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path, name):
    with GGUF.open(write_tiny_llama(tmp_path / "model.gguf")) as gguf:
        right = gguf.tensors[name]
        wrong = TensorInfo(name, right.type, (*right.shape[:-1], 999), right.data, right.part, right.offset)
        gguf.tensors = {**gguf.tensors, name: wrong}
        with pytest.raises(GGUFError) as caught:
            load_model(gguf, WorkerConfig(tmp_path, ""), lambda stage, done: None)
    assert str(caught.value) == f"tensor {name} has shape {wrong.shape}, expected {right.shape}"


def test_a_cache_type_that_cannot_be_had_is_refused_by_name(tmp_path):
    config = WorkerConfig(tmp_path, "", kv_type_v="iq9")
    with GGUF.open(write_tiny_llama(tmp_path / "model.gguf")) as gguf, pytest.raises(UnsupportedModel, match="'iq9'"):
        load_model(gguf, config, lambda stage, done: None)


def test_a_tensor_the_decoder_would_leave_out_is_refused(tmp_path):
    path = write_tiny_llama(tmp_path / "model.gguf")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"blk.1.ffn_norm.weight", b"blk.1.ffn_nose.weight"))
    with pytest.raises(UnsupportedModel, match=r"1 tensors that this version does not use, such as blk\.1\.ffn_nose"):
        load(path)


def test_stages_are_reported_in_order_and_to_their_end(tmp_path, monkeypatch):
    monkeypatch.setattr("worker.model.load.cache_folder", lambda: tmp_path / "cache")
    path, reports = write_tiny_llama(tmp_path / "model.gguf"), []
    for stages in (["packing", "compiling"], ["compiling"]):  # the second time the weights are there
        reports.clear()
        with GGUF.open(path) as gguf:
            load_model(gguf, WorkerConfig(path, "", num_threads=1), lambda *report: reports.append(report)).close()
        assert list(dict.fromkeys(stage.split()[0] for stage, _ in reports)) == stages
        for stage in stages:
            fractions = [done for each, done in reports if each.startswith(stage)]
            assert fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] == 1


def test_no_number_of_threads_means_one_for_each_usable_core(tmp_path):
    decoder = load(write_tiny_llama(tmp_path / "model.gguf"), num_threads=0)
    assert decoder.num_threads == usable_cores()
    decoder.close()


def test_a_load_that_fails_leaves_no_packed_weights(tmp_path: Path):
    path = write_tiny_llama(tmp_path / "model.gguf", metadata={"llama.block_count": 3})
    with pytest.raises(GGUFError):
        load(path)
    assert not (tmp_path / "cache" / "panels").exists()
