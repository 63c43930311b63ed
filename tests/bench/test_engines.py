"""Engines are run as they are meant to be, and their answers read."""

import json
from pathlib import Path

import pytest

from bench.engines import Engine, EngineFailed, run, run_batched
from tests.bench.programs import program

MODEL = Path("m.gguf")
BATCHED = """
llama_batched_bench: n_kv_max = 2048, n_batch = 2048

|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|    64 |     64 |   16 |   2048 |    5.000 |   200.00 |    4.000 |   256.00 |    9.000 |   227.56 |
"""


def test_a_run_reads_the_rows_that_llama_bench_prints(tmp_path: Path) -> None:
    rows = [
        {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 171.5},
        {"n_prompt": 0, "n_gen": 128, "n_depth": 1024, "avg_ts": 93.5},
    ]
    binary = program(tmp_path / "llama-bench", f"echo '{json.dumps(rows)}'")
    found = run(Engine("a", (str(binary),)), MODEL, [])
    assert [(one.test, one.rate) for one in found] == [("pp512", 171.5), ("tg128 @ d1024", 93.5)]


def test_an_engine_gets_its_own_flags_after_the_common_ones(tmp_path: Path) -> None:
    binary = program(tmp_path / "llama-bench", f'echo "$@" > {tmp_path}/said; echo "[]"')
    run(Engine("a", (str(binary),), flags=("-rtr", "1")), MODEL, ["-p", "512"])
    assert (tmp_path / "said").read_text().strip() == "-m m.gguf -p 512 -rtr 1 -r 1 -o json"


def test_a_sample_names_its_setting(tmp_path: Path) -> None:
    rows = [{"n_prompt": 512, "n_gen": 0, "avg_ts": 1.0}]
    binary = program(tmp_path / "llama-bench", f"echo '{json.dumps(rows)}'")
    assert run(Engine("a", (str(binary),), flags=("-fa", "1")), MODEL, [])[0].setting == "-fa 1"


def test_sequences_at_once_are_read_from_the_peers_table(tmp_path: Path) -> None:
    binary = program(tmp_path / "batched", f"echo \"$@\" > {tmp_path}/said; cat <<'END'{BATCHED}END")
    found = run_batched(Engine("a", ("absent",), (str(binary),), ("-rtr", "1", "-fa", "0")), MODEL, 16, 2)
    assert [(one.test, one.rate) for one in found] == [("S_TG 16", 256.0)]
    said = (tmp_path / "said").read_text().strip()
    assert said == "-m m.gguf -npp 64 -ntg 64 -npl 16 -c 2048 -t 2 -fa 0 -rtr"


def test_a_table_that_a_peer_logs_is_read_too(tmp_path: Path) -> None:
    binary = program(tmp_path / "batched", f"cat >&2 <<'END'{BATCHED}END")
    assert [one.rate for one in run_batched(Engine("a", (), (str(binary),)), MODEL, 16, 2)] == [256.0]


def test_an_engine_without_the_command_has_no_such_rate() -> None:
    assert run_batched(Engine("a", ("absent",)), MODEL, 16, 2) == []


@pytest.mark.parametrize("text", ["echo broken >&2; exit 3", "echo nonsense"], ids=["status", "output"])
def test_an_engine_that_fails_is_named(tmp_path: Path, text: str) -> None:
    binary = str(program(tmp_path / "llama-bench", text))
    with pytest.raises(EngineFailed, match="the peer"):
        run(Engine("the peer", (binary,)), MODEL, [])
    with pytest.raises(EngineFailed, match="the peer"):
        run_batched(Engine("the peer", (), (binary,)), MODEL, 16, 2)
