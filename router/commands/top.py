"""`corral top`: the models of a running gateway, again and again.

Run by router/__main__.py. Invariant: with --json each line is what the gateway said, unchanged.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson
from rich.live import Live

from router.commands.client import Gateway, parser, run
from router.commands.table import console, fleet_table


def top(arguments: Sequence[str]) -> None:
    """Shows the table until it is interrupted, or --count times. Raises CommandError."""
    made = parser("top", "Shows the models of a running gateway, live. With --json, one line per look.")
    made.add_argument("--interval", type=_seconds, default=1.0, metavar="SECONDS", help="between two looks (1)")
    made.add_argument("--count", type=int, default=0, metavar="N", help="looks, then end (0: until interrupted)")
    given = made.parse_args(arguments)
    looks = _looks(Gateway(given), given)
    if given.json:
        for models in looks:
            print(orjson.dumps({"models": models}).decode(), flush=True)
        return
    with Live(console=console(), auto_refresh=False, screen=sys.stdout.isatty() and not given.count) as live:
        for models in looks:
            live.update(fleet_table(models), refresh=True)


def _looks(gateway: Gateway, given: argparse.Namespace) -> Iterator[Sequence[Mapping[str, Any]]]:
    number = 0
    while True:
        yield gateway.get("/admin/fleet").json()["models"]
        number += 1
        if number == given.count:
            return
        time.sleep(given.interval)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"must be between 0.1 and 3600, but is {text}")
    return value


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(run(top, sys.argv[1:]))
