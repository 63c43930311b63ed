"""`corral doctor` as it is called: what it prints, its exit status, and that it starts nothing."""

import json
from pathlib import Path

import psutil
import pytest

from router.doctor.checks import CHECKS, Verdict
from router.doctor.command import main
from tests.tiny_models import MODELS, write_model


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORRAL_CACHE", str(tmp_path / "cache"))
    write_model(tmp_path / "tiny.gguf", MODELS["llama"])
    return tmp_path


def test_it_says_what_serve_would_find_and_starts_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = psutil.Process().children()
    assert main(["-m", "tiny.gguf", "--port", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "model files" in line] == [f"{'ok':<9}{'model files':<15}tiny.gguf"]
    assert psutil.Process().children() == before
    assert not (folder / "cache").exists()


def test_what_is_wrong_comes_with_what_to_do_and_a_status(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "corral.toml").write_text('[models.tiny]\npath = "tiny.gguf"\nttl = "soon"\n')
    assert main([]) == 1
    wrong, to_do = capsys.readouterr().out.partition("error    ")[2].splitlines()[:2]
    assert wrong.startswith("configuration") and "corral.toml:3: models.tiny.ttl" in wrong
    assert to_do.split(maxsplit=3)[:3] == ["what", "to", "do:"] and "config check" in to_do


def test_json_has_every_check_with_its_verdict_and_a_remedy_where_one_is_needed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--json", "-m", "tiny.gguf", "--models-memory", "1M"]) == 1
    rows = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [check.name for check in CHECKS]
    assert rows["memory"]["verdict"] == Verdict.BAD and "--ctx-size" in rows["memory"]["remedy"]
    assert all(("remedy" in row) == (row["verdict"] != Verdict.GOOD) for row in rows.values())


def test_a_wrong_flag_is_a_mistake_of_the_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--prot", "1"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
