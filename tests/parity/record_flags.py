"""Records which flags the peer's server has, for test_flags.py:

    python -m tests.parity.record_flags PATH/TO/llama-server

Invariant: only facts are kept: how each flag is spelt, how many values it takes, which variable means the same.
"""

import argparse
import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.parity.record_greedy import version

RECORD = Path(__file__).with_name("flags.json")

_NAMES = re.compile(r"((?:--?\w[\w.-]*)(?:,\s+--?\w[\w.-]*)*)(?: (\S.*?))?(?:\s{2,}.*)?")
_VARIABLE = re.compile(r"\s*\(env: (\w+)\)")


def flags(text: str) -> Iterator[dict[str, Any]]:
    """Those of a help text: names that begin a line, what stands beside them as values, a variable below."""
    found: dict[str, Any] = {}
    for line in text.splitlines():
        if variable := _VARIABLE.fullmatch(line):
            found["variable"] = variable[1]
        if names := _NAMES.fullmatch(line):
            if found:
                yield found
            values = [] if names[2] is None else names[2].split(" ") if names[2].isupper() else [names[2]]
            found = {"names": re.sub(r",\s+", " ", names[1]), "values": len(values)}
    yield found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="record_flags", description="Record the peer's flags.")
    parser.add_argument("server", type=Path, help="llama-server's executable")
    options = parser.parse_args(arguments)
    told = subprocess.run([options.server, "--help"], capture_output=True, text=True, check=True).stdout
    rows = ",\n".join(json.dumps(flag) for flag in flags(told))
    peer = json.dumps(f"llama-server {version(options.server)}")
    RECORD.write_text(f'{{"peer": {peer}, "flags": [\n{rows}\n]}}\n')
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
