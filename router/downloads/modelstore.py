"""The folder of fetched models: what is there, what may be trusted, and how a new file gets in.

Called by pull.py and inquiries.py. Beside every file NAME lies NAME.json with its source, size and sha256.
Invariant: a file under its own name is complete and was checked; whatever is not lies under another name.
"""

import fcntl
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from router.errors import CommandError
from router.paths import path_of

HASH_CHUNK_BYTES = 1 << 20
GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a stored file."""

    source: str
    num_bytes: int
    sha256: str
    modified_ns: int


class ModelStore:
    """The models under one cache folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(f"cannot create {folder}: {error.strerror}") from None

    def path(self, name: str) -> Path:
        return self.folder / name

    def partial(self, name: str) -> Path:
        """Where the file grows before it is complete."""
        return self.folder / f"{name}.part"

    def has(self, name: str, source: str, sha256: str | None = None) -> bool:
        """Whether the whole file is there. Only a file that was touched since is hashed again."""
        path, record = self.path(name), self._record(name)
        if not path.is_file():
            return False
        if record is None:
            return sha256 is not None and self._adopt(name, source, sha256)
        if record.source != source:
            raise CommandError(f"{path} is there already, from {record.source}; remove it first")
        if sha256 is not None and record.sha256 != sha256:
            return False
        found = path.stat()
        if (found.st_size, found.st_mtime_ns) == (record.num_bytes, record.modified_ns):
            return True
        return self._adopt(name, source, record.sha256)

    def stored(self) -> dict[str, Record]:
        """What is known of the files that are there, by their names."""
        names = sorted(path.name.removesuffix(".json") for path in self.folder.glob("*.json"))
        found = {name: self._record(name) for name in names if self.path(name).is_file()}
        return {name: record for name, record in found.items() if record is not None}

    def accept(self, name: str, source: str, sha256: str | None = None) -> Path:
        """Checks the partial file and gives it its name. Raises CommandError, and removes it, if it is not right."""
        part = self.partial(name)
        found = file_sha256(part)
        with part.open("rb") as opened:
            magic = opened.read(len(GGUF_MAGIC))
        if magic != GGUF_MAGIC or sha256 not in (None, found):
            part.unlink()
            what = "not a GGUF file" if magic != GGUF_MAGIC else f"damaged: its sha256 is {found}, not {sha256}"
            raise CommandError(f"what came from {source} is {what}; it was removed")
        os.replace(part, self.path(name))
        self._write_record(name, source, found)
        return self.path(name)

    @contextmanager
    def locked(self, name: str, waiting: Callable[[], None]) -> Iterator[None]:
        """One fetch of a file at a time; calls waiting() once if another process is at it."""
        with (self.folder / f".{name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _adopt(self, name: str, source: str, sha256: str) -> bool:
        """Whether a file that has no valid record is the right one; then it gets one."""
        if file_sha256(self.path(name)) != sha256:
            return False
        self._write_record(name, source, sha256)
        return True

    def _record(self, name: str) -> Record | None:
        try:
            return Record(**orjson.loads((self.folder / f"{name}.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def _write_record(self, name: str, source: str, sha256: str) -> None:
        found = self.path(name).stat()
        record = Record(source, found.st_size, sha256, found.st_mtime_ns)
        temporary = self.folder / f"{name}.json.tmp"
        temporary.write_bytes(orjson.dumps(asdict(record)))
        os.replace(temporary, self.folder / f"{name}.json")


def cache_folder(environment: Mapping[str, str]) -> Path:
    """CORRAL_CACHE, else corral/ in the user's cache folder."""
    own = environment.get("CORRAL_CACHE")
    if own:
        return path_of(own).absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "corral"
    base = environment.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "corral"


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while chunk := opened.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
