"""Many sequences at once, as llama-batched-bench counts them."""

import json
from typing import Any

import pytest

from worker.bench import batched
from worker.bench.workload import Trial
from worker.errors import InvalidRequest

# What llama-batched-bench b11434 prints, in its order.
PEER_FIELDS = [
    *("n_kv_max", "n_batch", "n_ubatch", "flash_attn", "is_pp_shared", "n_gpu_layers", "n_threads", "n_threads_batch"),
    *("pp", "tg", "pl", "n_kv", "t_pp", "speed_pp", "t_tg", "speed_tg", "t", "speed"),
]
PEER_TABLE = [
    "|     PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |",
    "|--------|--------|------|--------|----------|----------|----------|----------|----------|----------|",
    "|     32 |      8 |    4 |    160 |    0.500 |   256.00 |    0.250 |   128.00 |    0.750 |   213.33 |",
]
ROW = batched.row({"n_kv_max": 4096, "n_threads": 2}, Trial(32, 8, num_parallel=4), 0.5, 0.25)


def trials(*flags: str) -> list[Any]:
    found = batched._trials(batched._parser().parse_args(["-m", "x.gguf", *flags]))
    return [(trial.num_prompt, trial.num_generated, trial.num_parallel) for trial in found]


def test_up_to_32_sequences_are_measured() -> None:
    assert trials() == [(128, 128, num) for num in (1, 2, 4, 8, 16, 32)]


def test_the_number_of_sequences_changes_fastest() -> None:
    found = trials("-npp", "16,32", "-ntg", "4,8", "-npl", "1,2")
    assert found == [(prompt, generated, num) for prompt in (16, 32) for generated in (4, 8) for num in (1, 2)]


def test_lengths_may_be_named_as_without_batches() -> None:
    assert trials("-p", "16", "-n", "4", "-npl", "2") == trials("--n-prompt", "16", "--n-gen", "4", "-npl", "2")
    assert trials("-p", "16", "-n", "4", "-npl", "2") == [(16, 4, 2)]


def test_what_does_not_fit_the_context_is_left_out() -> None:
    assert trials("-npp", "16", "-ntg", "4", "-npl", "1,2,4", "-c", "40") == [(16, 4, 1), (16, 4, 2)]


def test_a_context_that_fits_nothing_is_an_error_with_what_is_needed() -> None:
    with pytest.raises(InvalidRequest, match=r"19 positions .* needs 20"):
        trials("-npp", "16", "-ntg", "4", "-npl", "1,2", "-c", "19")


def test_rates_count_the_tokens_of_all_sequences() -> None:
    assert list(ROW) == PEER_FIELDS
    assert (ROW["speed_pp"], ROW["speed_tg"], ROW["speed"]) == (256.0, 128.0, 160 / 0.75)


def test_prompts_alone_have_no_rate_of_generation() -> None:
    row = batched.row({"n_kv_max": 64, "n_threads": 1}, Trial(32, 0, num_parallel=2), 0.5, 0.0)
    assert (row["speed_tg"], row["speed"]) == (0.0, 128.0)


def test_the_table_is_laid_out_as_the_peers() -> None:
    assert list(batched.FORMATS["md"](iter([ROW]))) == PEER_TABLE


def test_json_lines_are_rows() -> None:
    assert [json.loads(line) for line in batched.FORMATS["jsonl"](iter([ROW, ROW]))] == [ROW, ROW]
