"""The whole comparison, with shell scripts for the other engines."""

import argparse
import json
from pathlib import Path

import pytest

from bench import limits, peers, tables
from bench.engines import Engine
from tests.bench.programs import program
from tests.fixtures_gguf import write_tiny_llama

# Answers with a rate of 10 for each flag -fa 0, and of 20 for -fa 1.
ANSWER = """
case "$*" in *"-fa 1"*) rate=20;; *) rate=10;; esac
echo "[{\\"n_prompt\\": 512, \\"n_gen\\": 0, \\"n_depth\\": 0, \\"avg_ts\\": $rate}]"
"""
BATCHED = "echo '| B | S_TG t/s |'; echo '|---|---|'; echo '| 16 | 30.0 |'"


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """With known limits, on which no run is disturbed."""
    monkeypatch.setattr(tables, "MOST_FOREIGN", float("inf"))
    monkeypatch.setattr(limits, "measure", lambda num_bytes, num_threads: limits.Limits(num_threads, 1e9, 1e9))


def test_a_peer_is_a_name_a_path_and_flags(tmp_path: Path) -> None:
    binary = program(tmp_path / "llama-bench", "true")
    assert peers._peer(f"ik={binary},-rtr,1") == Engine("ik", (str(binary),), (), ("-rtr", "1"))
    with pytest.raises(argparse.ArgumentTypeError):
        peers._peer(f"ik={tmp_path}/absent")


def test_the_command_for_several_sequences_lies_beside(tmp_path: Path) -> None:
    binary, batched = (program(tmp_path / name, "true") for name in ("llama-bench", "llama-batched-bench"))
    assert peers._peer(f"ik={binary}").batched == (str(batched),)


def test_engines_are_compared_in_one_table_and_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_tiny_llama(tmp_path / "m.gguf")
    binary = program(tmp_path / "llama-bench", ANSWER)
    program(tmp_path / "llama-batched-bench", BATCHED)
    alone = program(tmp_path / "ik" / "llama-bench", ANSWER)
    status = peers.main(
        [
            *("-m", str(model), "--llama-bench", str(binary), "--peer", f"ik={alone},-rtr,1", "--without-corral"),
            *("--rounds", "2", "--wait", "0", "--json", str(tmp_path / "all.json")),
        ]
    )
    assert status == 0
    table = capsys.readouterr().out.split("\n\n")[1]
    content = json.loads((tmp_path / "all.json").read_text())
    engines = {(row["test"], name): found for row in content["rows"] for name, found in row["engines"].items()}
    assert "| model | test | llama.cpp | ik | limit |" in table
    assert (engines["pp512", "llama.cpp"]["rate"], engines["pp512", "llama.cpp"]["setting"]) == (20, "-fa 1")
    assert engines["pp512", "ik"]["rate"] == 10
    assert engines["S_TG 16", "llama.cpp"]["rate"] == 30
    assert ("S_TG 16", "ik") not in engines
    assert len(content["samples"]) == 2 * (2 + 2 + 1)  # rounds x (llama.cpp's tests and sequences at once, twice; ik's)


def test_a_run_that_fails_is_told_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_tiny_llama(tmp_path / "m.gguf")
    binary = program(tmp_path / "llama-bench", ANSWER)
    program(tmp_path / "llama-batched-bench", 'case "$*" in *"-fa 1"*) echo broken >&2; exit 3;; esac\n' + BATCHED)
    flags = ["--llama-bench", str(binary), "--without-corral", "--rounds", "1", "--wait", "0"]
    assert peers.main(["-m", str(model), *flags]) == 0
    said = capsys.readouterr()
    assert "left out: llama.cpp -fa 1 ended with status 3: broken" in said.err
    assert "| m.gguf | S_TG 16 | 30 (" in said.out


def test_if_every_run_fails_so_does_the_comparison(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "m.gguf")
    binary = program(tmp_path / "llama-bench", "exit 3")
    flags = ["--llama-bench", str(binary), "--without-corral", "--rounds", "1", "--wait", "0"]
    assert peers.main(["-m", str(model), *flags]) == 1


def test_without_a_peer_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORRAL_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(peers.llama_cpp.ENVIRONMENT, raising=False)
    assert peers.main(["-m", "x.gguf"]) == 1
    assert "--build" in capsys.readouterr().err
