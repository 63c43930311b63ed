"""`corral bench` from its arguments to what it prints, on a tiny model."""

import json
from pathlib import Path

import pytest

from tests.fixtures_gguf import write_tiny_llama
from worker.bench import __main__ as command


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("bench") / "tiny.gguf")


def test_a_model_is_measured_at_every_depth(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["-p", "8", "-n", "2", "-pg", "4,2", "-d", "0,16", "-r", "2", "-t", "1", "-o", "json"]
    assert command.main(["-m", str(model), *flags]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["n_prompt"], row["n_gen"], row["n_depth"]) for row in rows] == [
        (8, 0, 0), (0, 2, 0), (4, 2, 0), (8, 0, 16), (0, 2, 16), (4, 2, 16),
    ]  # fmt: skip
    assert all(row["avg_ts"] > 0 and len(row["samples_ns"]) == 2 for row in rows)
    assert {(row["n_threads"], row["model_filename"]) for row in rows} == {(1, str(model))}
    assert rows[0]["model_type"].startswith("llama 0M")


def test_sequences_at_once_are_a_table_of_their_own(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["-npp", "8", "-ntg", "2", "-npl", "1,3", "-t", "1"]
    assert command.main(["--batched", "-m", str(model), *flags]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.split("|")[1].strip() == "PP"
    counts = [[int(cell) for cell in row.split("|")[1:5]] for row in rows]
    assert counts == [[8, 2, 1, 10], [8, 2, 3, 30]]


def test_flags_without_effect_are_named_once(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["-m", str(model), "-ngl", "99", "-fa", "1", "-p", "0", "-n", "1", "-r", "1", "-t", "1"]) == 0
    assert capsys.readouterr().err.splitlines() == ["note: without effect here: -ngl, -fa"]


@pytest.mark.parametrize("mode", [[], ["--batched"]])
def test_a_missing_file_is_one_line_of_error(capsys: pytest.CaptureFixture[str], mode: list[str]) -> None:
    assert command.main([*mode, "-m", "/nonexistent/x.gguf"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "x.gguf" in said.err


@pytest.mark.parametrize("flags", [
    ["-t", "-5"], ["-t", "100000"], ["-r", "0"], ["--delay", "-1"],
    ["--batched", "-t", "-5"], ["--batched", "-b", "0"], ["--batched", "-c", "-1"],
], ids=str)  # fmt: skip
def test_a_number_that_cannot_be_is_refused_before_anything_is_loaded(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["-m", "/nonexistent/x.gguf", *flags])
    assert ended.value.code == 2
    assert flags[-1] in capsys.readouterr().err


def test_a_context_beyond_the_memory_is_one_line_with_both_sizes(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["-m", str(model), "-p", str(10**12), "-n", "0", "-t", "1"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "positions need" in said and "GiB are free" in said
