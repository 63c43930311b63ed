"""How large a model is on disk, without a look inside.

Called by footprint.py before anything is loaded. Invariant: a file that is not there counts as empty; its worker says
what is wrong.
"""

import re
from pathlib import Path

_PART = re.compile(r"(.+-)\d{5}(-of-\d{5}\.gguf)")


def size_on_disk(file: Path) -> int:
    """Bytes of a GGUF file, or of all the parts of a split one."""
    part = _PART.fullmatch(file.name)
    if part is None:
        return _size(file)
    first, last = part.groups()
    return sum(_size(each) for each in file.parent.glob("*.gguf") if _is_part(each.name, first, last))


def _is_part(name: str, first: str, last: str) -> bool:
    return name.startswith(first) and name.endswith(last) and _PART.fullmatch(name) is not None


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
