"""The files a configuration was read from, looked at every second, and whether they are to be read again.

gateway.py runs `watch`. A file for which a reload was refused is looked at, too. Looking works on every file system and
sees editors that write a new file and rename it, and links that are switched, as Kubernetes does with a ConfigMap.
Invariant: a change is acted on once, when it has stayed the same from one look to the next; what is still being written
is left alone.
"""

import asyncio
import logging
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

INTERVAL = 1.0  # seconds between two looks
DEPTH = 2  # of folders that are looked into: --models-dir, and the folders in it

log = logging.getLogger("corral.reload")

Stamp = object  # differs if a file may have changed; compared, never read


class Watcher:
    """Remembers what was there when the files were last read."""

    def __init__(self, files: Callable[[], Sequence[Path]], awaited: Callable[[], Path | None] = lambda: None) -> None:
        """`files`: those of the configuration in force; `awaited`: the one for which a reload was refused."""
        self._files = files
        self._awaited = awaited
        self._read = self._seen = self._look()

    def look(self) -> bool:
        """Whether the files are to be read again now."""
        now = self._look()
        settled, self._seen = now == self._seen, now
        changed = any(now[file] != self._read.get(file, now[file]) for file in now) or self._has_come(now)
        if settled:
            self._read = now  # with the files of a configuration that has come into force meanwhile
        return settled and changed

    def _has_come(self, now: Mapping[Path, Stamp]) -> bool:
        """Whether an awaited file is there, perhaps since it was missed and before anybody looked."""
        awaited = self._awaited()
        return awaited is not None and awaited not in self._read and now.get(awaited) is not None

    def _look(self) -> Mapping[Path, Stamp]:
        awaited = self._awaited()
        return {file: _stamp(file, DEPTH) for file in (*self._files(), *([awaited] if awaited else []))}


async def watch(watcher: Watcher, act: Callable[[], None]) -> None:
    """Calls `act` after every change, for ever: what goes wrong with one is logged, and the next is awaited."""
    while True:
        await asyncio.sleep(INTERVAL)
        try:
            if await asyncio.to_thread(watcher.look):
                act()
        except Exception:
            log.exception("changed files could not be taken into force; they are still watched")


def _stamp(file: Path, depth: int) -> Stamp:
    """Of a file, behind all links; of a folder, of everything in it; None: there is nothing that could be read."""
    try:
        found = file.stat()
        if stat.S_ISDIR(found.st_mode):
            return {child.name: _stamp(child, depth - 1) for child in file.iterdir()} if depth else ()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
