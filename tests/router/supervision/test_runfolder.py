import os
import subprocess
import sys
from pathlib import Path

import pytest

from router.errors import CommandError
from router.supervision.runfolder import RunFolder, writable_base

PROGRAM = (
    "import os, sys; from router.supervision.runfolder import RunFolder\n"
    "print(RunFolder({'XDG_RUNTIME_DIR': sys.argv[1]}).path, flush=True); os._exit(0)"
)


@pytest.fixture
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tmp_path_factory.mktemp("r"))


def test_the_folder_is_private_and_goes_away(base: Path) -> None:
    folder = RunFolder({"XDG_RUNTIME_DIR": str(base)})
    assert folder.path.parent == base
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert len(os.fsencode(folder.socket(9999))) <= 107
    folder.remove()
    assert list(base.iterdir()) == []


def test_the_folder_of_a_killed_run_is_removed_and_that_of_a_running_one_is_not(base: Path) -> None:
    running = RunFolder({"XDG_RUNTIME_DIR": str(base)})
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(base)], capture_output=True, text=True, check=True)
    killed = Path(done.stdout.strip())
    for folder in (running.path, killed):
        os.utime(folder, (1, 1))
    newest = RunFolder({"XDG_RUNTIME_DIR": str(base)})
    assert not killed.exists()
    assert running.path.exists()
    running.remove()
    newest.remove()


def test_a_base_that_is_too_long_or_absent_is_passed_over(base: Path) -> None:
    long = base / ("x" * 90)
    long.mkdir()
    assert writable_base({"XDG_RUNTIME_DIR": str(long)}) != long
    assert writable_base({"XDG_RUNTIME_DIR": "/absent"}) != Path("/absent")


def test_no_writable_base_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(CommandError, match="set XDG_RUNTIME_DIR"):
        writable_base({})
