"""Rows and formats are those of llama-bench."""

import csv
import io
import json
import sqlite3
from typing import Any

from worker.bench import report
from worker.bench.report import FORMATS
from worker.bench.workload import Trial

# What llama-bench b11434 prints, in its order.
PEER_FIELDS = [
    *("build_commit", "build_number", "cpu_info", "gpu_info", "backends", "model_filename", "model_type", "model_size"),
    *("model_n_params", "n_batch", "n_ubatch", "n_threads", "cpu_mask", "cpu_strict", "poll", "type_k", "type_v"),
    *("n_gpu_layers", "n_cpu_moe", "split_mode", "main_gpu", "no_kv_offload", "flash_attn", "devices", "tensor_split"),
    *("tensor_buft_overrides", "load_mode", "lazy_mode", "embeddings", "no_op_offload", "no_host", "repack"),
    *("fit_target", "fit_min_ctx", "n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts"),
    *("stddev_ts", "samples_ns", "samples_ts"),
]
PEER_TABLE = [
    "| model                          |       size |     params | backend    | threads "
    "| n_ubatch |            test |                  t/s |",
    "| ------------------------------ | ---------: | ---------: | ---------- | ------: "
    "| -------: | --------------: | -------------------: |",
    "| llama 135M Q4_1                |  92.10 MiB |   134.52 M | CPU (avx2) |       2 "
    "|       64 |     pp512 @ d16 |        512.00 ± 0.00 |",
]
SHARED: dict[str, Any] = {
    "build_commit": "1", "build_number": 0, "cpu_info": "x", "gpu_info": "", "backends": "CPU (avx2)",
    "model_filename": "it's.gguf", "model_type": "llama 135M Q4_1", "model_size": 96576768,
    "model_n_params": 134515008, "n_batch": 0, "n_ubatch": 0, "n_threads": 2, **report._WITHOUT_MEANING,
    "type_k": "f16", "type_v": "f16",
}  # fmt: skip
PROMPT = Trial(512, 0, depth=16, num_ubatch=64)
ROW = report.row(SHARED, PROMPT, [10**9])


def text_of(name: str, *rows: Any, optional: tuple[str, ...] = ()) -> str:
    return "".join(FORMATS[name](rows, optional))


def test_rates_are_tokens_a_second_of_each_sample() -> None:
    row = report.row(SHARED, PROMPT, [10**9, 2 * 10**9])
    assert row["samples_ts"] == [512.0, 256.0]
    assert row["avg_ts"] == 384.0
    assert row["avg_ns"] == 1_500_000_000
    assert row["stddev_ns"] == 707_106_781
    assert ROW["stddev_ts"] == 0.0


def test_rows_have_the_fields_of_the_peer_in_its_order() -> None:
    assert list(ROW) == PEER_FIELDS
    assert (ROW["n_prompt"], ROW["n_gen"], ROW["n_depth"], ROW["n_ubatch"]) == (512, 0, 16, 64)


def test_the_table_is_laid_out_as_the_peers() -> None:
    assert text_of("md", ROW, optional=("n_ubatch",)).splitlines() == PEER_TABLE


def test_large_models_are_told_in_larger_units() -> None:
    row = {**ROW, "model_size": 3 << 29, "model_n_params": 1_235_814_432}
    assert "|   1.50 GiB |     1.24 B |" in text_of("md", row)


def test_json_is_a_list_of_rows_and_json_lines_are_rows() -> None:
    assert json.loads(text_of("json", ROW, ROW)) == [ROW, ROW]
    assert json.loads(text_of("json")) == []
    assert [json.loads(line) for line in text_of("jsonl", ROW, ROW).splitlines()] == [ROW, ROW]


def test_csv_has_every_field_but_the_lists() -> None:
    rows = list(csv.DictReader(io.StringIO(text_of("csv", ROW, ROW))))
    assert list(rows[0]) == PEER_FIELDS[:-2]
    assert [row["avg_ts"] for row in rows] == ["512.0", "512.0"]
    assert rows[0]["cpu_strict"] == "0"


def test_sql_can_be_executed() -> None:
    with sqlite3.connect(":memory:") as database:
        database.executescript(text_of("sql", ROW, ROW))
        found = database.execute("SELECT model_filename, n_prompt, avg_ts FROM llama_bench").fetchall()
    assert found == [("it's.gguf", 512, 512.0)] * 2
