"""`corral ps`: the models of a running gateway, once.

Run by router/__main__.py. Invariant: with --json it prints what the gateway said, unchanged.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress

from router.commands.client import Gateway, parser, run
from router.commands.table import console, fleet_table


def ps(arguments: Sequence[str]) -> None:
    """Prints the table. Raises CommandError."""
    given = parser("ps", "Shows the models of a running gateway.").parse_args(arguments)
    answer = Gateway(given).get("/admin/fleet")
    if given.json:
        print(answer.text)
    else:
        console().print(fleet_table(answer.json()["models"]))


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(run(ps, sys.argv[1:]))
