"""What a model's weights allow on a machine."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from bench.ceiling import Weights, ceiling, weigh
from bench.limits import Limits
from tests.fixtures_gguf import write_tiny_llama

LIMIT = Limits(2, 20e9, 100e9)
WEIGHTS = Weights(generated_bytes=100_000_000, prompt_products=80_000_000, head_products=20_000_000)
Q4_1, Q8_0 = 20 / 32, 34 / 32  # bytes of a weight
LAYER = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 128
HEAD = 384 * 64


def test_prompts_are_limited_by_products_and_generation_by_reading() -> None:
    assert ceiling("pp512", WEIGHTS, LIMIT) == 1250
    assert ceiling("tg128 @ d4096", WEIGHTS, LIMIT) == 200


def test_sequences_at_once_share_reading_until_products_limit_them() -> None:
    assert ceiling("S_TG 4", WEIGHTS, LIMIT) == 800
    assert ceiling("S_TG 16", WEIGHTS, LIMIT) == 1000


@pytest.mark.parametrize("tied", [False, True])
def test_the_head_is_read_and_an_embedding_only_looked_up(tmp_path: Path, tied: bool) -> None:
    found = weigh(write_tiny_llama(tmp_path / "m.gguf", tied=tied))
    assert found.prompt_products == 2 * LAYER
    assert found.head_products == HEAD
    norms = 2 * 2 * 64 * 4
    assert found.generated_bytes == 2 * LAYER * Q4_1 + norms + HEAD * Q8_0


def test_of_experts_those_in_use_count(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_uint32("llama.expert_count", 8)
    writer.add_uint32("llama.expert_used_count", 2)
    writer.add_tensor("token_embd.weight", np.zeros((10, 32), np.float32))
    writer.add_tensor("blk.0.ffn_up_exps.weight", np.zeros((8, 64, 32), np.float32))
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    used = 2 * 64 * 32 + 32 * 32
    assert weigh(tmp_path / "m.gguf") == Weights(4 * (used + 320), used, 320)
