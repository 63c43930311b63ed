from pathlib import Path

import psutil
import pytest

from router.fleet.memory import usable_bytes


@pytest.mark.parametrize(("text", "limited"), [("1000000\n", 1000000), ("max\n", None), (str(1 << 62), None)])
def test_the_control_groups_limit_counts_if_it_is_less(tmp_path: Path, text: str, limited: int | None) -> None:
    (tmp_path / "memory.max").write_text(text)
    whole = usable_bytes([tmp_path / "absent"])
    assert whole == psutil.virtual_memory().total
    assert usable_bytes([tmp_path / "absent", tmp_path / "memory.max"]) == (limited or whole)
