"""The Makefile's commands name what is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_a_target_names_is_there() -> None:
    named = re.findall(r"(?<![\w/])tests/[\w/.]+", (ROOT / "Makefile").read_text())
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
