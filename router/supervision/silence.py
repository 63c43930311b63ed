"""Whether a process that loads a model still gets on: it says something, or it computes.

Used by supervisor.py for a worker and by nursery.py for what forks workers; health.py watches a worker that serves, and
asks here whether one that does not answer stands still.
Invariant: looks are counted, not seconds, so that time in which this process stood still itself counts as one; and
where the system does not tell what a process computes, none is called silent.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

INTERVAL = 1.0  # seconds between two looks
MOST_LOOKS = 60  # with the same sign: a kernel that compiles and a slow disk both cost processor time meanwhile
SILENT = "it hung while it loaded: neither a word nor a use of the processor for {:g} s"
_AT_IT = "RD"  # the system's letters for a thread that runs or may, and one that waits for a disk or for memory


async def silence(sign: Callable[[], object]) -> str:
    """Returns, in words, once the sign has stayed the same for too long."""
    last, num_same = sign(), 0
    while num_same < MOST_LOOKS:
        await asyncio.sleep(INTERVAL)
        now = sign()
        num_same = num_same + 1 if now == last else 0
        last = now
    return SILENT.format(MOST_LOOKS * INTERVAL)


def computed(pid: int) -> object:
    """How much processor time the process and its children have used; never the same if nobody knows.

    Nor is it while the process waits for a lock on a file, which another one that compiles or packs the same holds.
    """
    try:
        process = Path(f"/proc/{pid}")
        children = [child for each in process.glob("task/*/children") for child in each.read_text().split()]
        if _waits_for_lock(pid):
            return object()
        return [_ticks(process), *(_ticks(Path(f"/proc/{child}")) for child in children)]
    except OSError:
        return object()


@dataclass(frozen=True, slots=True)
class Activity:
    """Of a process at one moment."""

    is_at_it: bool  # its first thread runs, or would if the machine let it
    ticks: tuple[str, ...]  # what it has used of the processor


def activity(pid: int) -> Activity | None:
    """None where the system does not tell."""
    try:
        state, *rest = _stat(Path(f"/proc/{pid}"))
    except (OSError, ValueError):
        return None
    return Activity(state in _AT_IT, tuple(rest[10:12]))


def stood_still(before: Activity | None, now: Activity | None) -> bool | None:
    """Whether a process did nothing between two moments, as one that is stopped or waits for itself; None: unknown."""
    if before is None or now is None:
        return None
    return before.ticks == now.ticks and not (before.is_at_it or now.is_at_it)


def _ticks(process: Path) -> list[str]:
    """Of user and system, its own and of those it has waited for."""
    return _stat(process)[11:15]


def _stat(process: Path) -> list[str]:
    """The fields from the state on: before them stands a name that may be anything."""
    return (process / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()


def _waits_for_lock(pid: int) -> bool:
    """By lines such as "1: -> FLOCK ADVISORY WRITE 4711 fd:01:2 0 EOF"."""
    words = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return any(each[1:2] == ["->"] and str(pid) in each[2:6] for each in words)
