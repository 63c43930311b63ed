"""ARCHITECTURE.md names every module, and no module that is not there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = re.sub(r"```.*?```", "", (ROOT / "ARCHITECTURE.md").read_text(), flags=re.DOTALL)
NAMES = {name for quoted in re.findall(r"`([^`]+)`", PAGE) for name in re.findall(r"\w+", quoted)}


@pytest.mark.parametrize("package", ["router", "worker", "bench"])
def test_every_module_is_named(package):
    modules = {path.stem for path in (ROOT / package).rglob("*.py")} - {"__init__"}
    assert modules - NAMES == set()


def test_every_file_that_is_named_is_there():
    paths = re.findall(r"`((?:router|worker|tests|bench|protos)/[\w./]*)`", PAGE)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert len(paths) > 30
