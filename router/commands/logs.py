"""`corral logs MODEL`: what a model's worker wrote last, and with -f what it goes on to write.

Run by router/__main__.py. Invariant: nothing of it can move the cursor or colour the terminal, whatever it quotes.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress

import orjson

from router.commands.client import Gateway, parser, run
from router.errors import CommandError

DEFAULT_LINES = 50


def logs(arguments: Sequence[str]) -> None:
    """Prints the lines. Raises CommandError."""
    made = parser("logs", "Shows the last lines of a model's worker. With --json, each is a JSON string.")
    made.add_argument("model", nargs="?", help="may be left out where there is only one")
    made.add_argument("-f", "--follow", action="store_true", help="go on with new lines as they come")
    made.add_argument("-n", "--lines", type=int, default=DEFAULT_LINES, metavar="N", help=f"({DEFAULT_LINES})")
    given = made.parse_args(arguments)
    gateway = Gateway(given)
    query = {"lines": given.lines} | ({"model": given.model} if given.model else {})
    if given.follow:
        for data in gateway.events("/admin/logs", follow=1, **query):
            line = orjson.loads(data)
            if not isinstance(line, str):  # the gateway tells why it ends
                raise CommandError(line["error"]["message"])
            _print(line, given.json)
    else:
        for line in gateway.get("/admin/logs", **query).text.splitlines():
            _print(line, given.json)


def _print(line: str, as_json: bool) -> None:
    shown = "".join(letter if letter.isprintable() or letter == "\t" else "?" for letter in line)
    print(orjson.dumps(line).decode() if as_json else shown, flush=True)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(run(logs, sys.argv[1:]))
