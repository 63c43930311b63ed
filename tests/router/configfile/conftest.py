"""A folder with a corral.toml and the models it names, for all tests of this folder."""

from pathlib import Path

import pytest

from tests.router.configfile.configurations import TOML


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a.gguf", "b.gguf", "c.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    (tmp_path / "corral.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path)
    return tmp_path
