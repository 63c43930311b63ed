"""Where compute threads run on a machine whose memory is in several nodes: --numa, as llama.cpp means it.

startup.py calls `place` when all threads are there. The weights stay where the file cache has them. Invariant: no
thread is sent to a processor that the process may not use, and one node is left as it is.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

log = logging.getLogger("worker")

_NODES = Path("/sys/devices/system/node")


def place(policy: str, threads: Sequence[int]) -> None:
    """Binds threads, by their native ids. Says in one line what was done."""
    allowed = os.sched_getaffinity(0)
    nodes = usable_nodes(read_nodes(_NODES), allowed)
    if policy == "numactl":
        log.info("--numa numactl: threads run on the %d processors that they were started with", len(allowed))
    elif len(nodes) < 2:
        log.info("--numa %s: this process has one node, there is nothing to place", policy)
    else:
        for thread, processors in zip(threads, placement(policy, nodes, _here(), len(threads)), strict=True):
            os.sched_setaffinity(thread, processors)
        log.info("--numa %s: %d threads on %d nodes", policy, len(threads), len(nodes))


def read_nodes(folder: Path) -> dict[int, set[int]]:
    """The processors of each node."""
    return {
        int(node.name.removeprefix("node")): _processors((node / "cpulist").read_text())
        for node in sorted(folder.glob("node[0-9]*"))
    }


def usable_nodes(nodes: Mapping[int, set[int]], allowed: set[int]) -> list[set[int]]:
    """What of each node may be used, without nodes of which nothing may."""
    return [usable for _, processors in sorted(nodes.items()) if (usable := processors & allowed)]


def placement(policy: str, nodes: Sequence[set[int]], here: int, num_threads: int) -> list[set[int]]:
    """Each thread's processors: the nodes in turn to distribute, else all on the node of processor `here`."""
    if policy == "distribute":
        return [nodes[thread % len(nodes)] for thread in range(num_threads)]
    home = next((node for node in nodes if here in node), nodes[0])
    return [home] * num_threads


def _processors(text: str) -> set[int]:
    """ "0-3,8" -> {0, 1, 2, 3, 8}."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _here() -> int:
    """The processor that this thread runs on."""
    fields = Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()
    return int(fields[36])
