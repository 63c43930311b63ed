"""What `python -m worker.bench` plans and prints."""

import csv
import io
import json
from typing import Any

import pytest

from worker import bench
from worker.errors import InvalidRequest
from worker.workload import Trial

FACTS: dict[str, Any] = {
    "model_type": "llama 135M Q4_1",
    "model_size": 1 << 20,
    "model_n_params": 2_000_000,
    "backends": "CPU (avx2)",
    "n_threads": 2,
}
PROMPT = Trial(512, 0, 0, 1, 2048, 512)


def options(*flags: str) -> Any:
    return bench._parser().parse_args(["-m", "x.gguf", *flags])


def test_values_separated_by_commas_multiply() -> None:
    planned = bench.trials(options("-p", "128,512", "-n", "32", "-d", "0,1024", "-npl", "1,8"))
    names = ["pp128", "pp512", "tg32", "tg32 x8"]
    assert [trial.name for trial in planned] == [*names, *(f"{name} @ d1024" for name in names)]


def test_zero_leaves_a_kind_of_test_out() -> None:
    assert [trial.name for trial in bench.trials(options("-p", "0", "-n", "16"))] == ["tg16"]
    assert [trial.name for trial in bench.trials(options("-p", "16", "-n", "0"))] == ["pp16"]


def test_each_number_of_threads_gets_a_decoder_of_its_own() -> None:
    found = bench.setups(options("-t", "1,2", "-ctk", "q8_0", "-ctv", "q8_0"))
    assert found == [bench.Setup(1, "q8_0"), bench.Setup(2, "q8_0")]


def test_different_types_for_keys_and_values_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="q8_0"):
        bench.setups(options("-ctk", "q8_0"))


def test_rates_are_tokens_a_second_of_each_sample() -> None:
    row = bench.row(FACTS, PROMPT, [10**9, 2 * 10**9])
    assert row["samples_ts"] == [512.0, 256.0]
    assert row["avg_ts"] == 384.0
    assert row["avg_ns"] == 1_500_000_000
    assert row["stddev_ns"] == 707_106_781
    assert bench.row(FACTS, PROMPT, [10**9])["stddev_ts"] == 0.0


def test_rows_have_the_fields_of_llama_bench() -> None:
    fields = {"n_batch", "n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts"}
    row = bench.row(FACTS, PROMPT, [10**9])
    assert fields | {"samples_ns", "samples_ts"} <= row.keys()
    assert (row["n_prompt"], row["n_gen"], row["n_depth"]) == (512, 0, 0)


def test_every_format_shows_the_rate() -> None:
    rows = [bench.row(FACTS, PROMPT, [10**9])]
    assert "| pp512 | 512.00 ± 0.00 |" in bench.as_markdown(rows)
    assert json.loads(bench.as_json(rows))[0]["avg_ts"] == 512.0
    assert next(csv.DictReader(io.StringIO(bench.as_csv(rows))))["avg_ts"] == "512.0"


def test_a_missing_file_is_one_line_of_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["-m", "/nonexistent/x.gguf"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "x.gguf" in said.err
