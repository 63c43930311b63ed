from pathlib import Path

import pytest

from tests.fixtures_gguf import write_tiny_llama


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "model.gguf")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "panels"
