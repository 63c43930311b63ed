"""How far a worker has come with loading, read from the lines it writes.

Called by supervisor.py. Invariant: a line that is not progress is never taken for it.
"""

from dataclasses import dataclass

import orjson


@dataclass(frozen=True, slots=True)
class Progress:
    """A stage of loading and the part of it that is done."""

    stage: str
    fraction: float  # 0 to 1


def read_progress(line: str) -> Progress | None:
    """Reads {"progress": 0.25, "stage": "compiling"}; None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    fraction = value.get("progress")
    if isinstance(fraction, bool) or not isinstance(fraction, int | float):
        return None
    return Progress(str(value.get("stage", "loading")), min(1.0, max(0.0, float(fraction))))
