"""`corral doctor`: whether this machine, and what `corral serve` would be told, are as they should be.

Run by router/__main__.py. Takes the flags of `corral serve`. Invariant: the exit status is 1 if anything is wrong, and
0 if there are doubts at most.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import orjson

from router.api.routed import check_overlays
from router.config import GatewayConfig
from router.configfile.loading import load
from router.doctor.checks import Check, Finding, Patient, Verdict, examine
from router.errors import CommandError
from router.options.flags import Given, parse
from router.options.settings import gateway_config

USAGE = """usage: corral doctor [--json] [flags of corral serve]

Looks at the machine, at ./corral.toml (or --config FILE) and at what it names, and says what to do. Starts no model.
"""


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return 0
    words = [each for each in arguments if each != "--json"]
    try:
        given = parse(words, os.environ)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    found = examine(_patient(given))
    print(_as_json(found) if "--json" in arguments else _as_lines(found))
    return int(any(finding.verdict is Verdict.BAD for _, finding in found))


def _patient(given: Given) -> Patient:
    config, fault = None, None
    try:
        config = _configured(given)
    except CommandError as error:
        fault = error
    return Patient(config, fault, os.environ)


def _configured(given: Given) -> GatewayConfig | None:
    """As `corral serve` would have it; None: it was told nothing. Raises CommandError."""
    file = load(given)
    if file.path is None and not given.values:
        return None
    config = gateway_config(given, (), file)
    check_overlays(config.aliases)
    return config


def _as_lines(found: Sequence[tuple[Check, Finding]]) -> str:
    lines = []
    for check, finding in found:
        lines.append(f"{finding.verdict:<9}{check.name:<15}{finding.text}")
        if finding.verdict is not Verdict.GOOD:
            lines.append(f"{'':<9}{'what to do:':<15}{check.remedy}")
    return "\n".join(lines)


def _as_json(found: Sequence[tuple[Check, Finding]]) -> str:
    rows = [
        {"check": check.name, "verdict": finding.verdict, "found": finding.text}
        | ({} if finding.verdict is Verdict.GOOD else {"remedy": check.remedy})
        for check, finding in found
    ]
    return orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode()


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
