"""`corral top`: the models of a running gateway, again and again, with the tokens that each makes per second.

Run by router/__main__.py. Invariant: a rate is the difference of two counts of the same worker; after a restart there
is none until the next look.
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

Models = Sequence[Mapping[str, Any]]


def top(arguments: Sequence[str]) -> None:
    """Shows the table until it is interrupted, or --count times. Raises CommandError."""
    made = parser("top", "Shows the models of a running gateway, live. With --json, one line per look.")
    made.add_argument("--interval", type=_seconds, default=1.0, metavar="SECONDS", help="between two looks (1)")
    made.add_argument("--count", type=int, default=0, metavar="N", help="looks, then end (0: until interrupted)")
    given = made.parse_args(arguments)
    looks = _looks(Gateway(given), given)
    if given.json:
        for models, rates in looks:
            told = [{**model, "tokens_per_second": rates.get(model["name"])} for model in models]
            print(orjson.dumps({"models": told}).decode(), flush=True)
        return
    with Live(console=console(), auto_refresh=False, screen=sys.stdout.isatty() and not given.count) as live:
        for models, rates in looks:
            live.update(fleet_table(models, rates), refresh=True)


def _looks(gateway: Gateway, given: argparse.Namespace) -> Iterator[tuple[Models, dict[str, float]]]:
    before: Models = []
    since, number = time.monotonic(), 0
    while True:
        models, now = gateway.get("/admin/fleet").json()["models"], time.monotonic()
        yield models, rates(before, models, now - since)
        before, since, number = models, now, number + 1
        if number == given.count:
            return
        time.sleep(given.interval)


def rates(before: Models, after: Models, seconds: float) -> dict[str, float]:
    """Tokens per second of the models of which both looks tell, and whose workers are still the same."""
    old = {_workers(model): model["predicted_tokens_total"] for model in before}
    found = {}
    for model in after:
        count = old.get(_workers(model))
        if count is not None and model["predicted_tokens_total"] is not None and seconds > 0:
            found[model["name"]] = (model["predicted_tokens_total"] - count) / seconds
    return found


def _workers(model: Mapping[str, Any]) -> tuple[Any, ...]:
    """By what the workers of a model that counted are told from others, and from themselves after a restart."""
    remote = (worker["address"] for worker in model.get("remote", ()) if worker["state"] == "ready")
    return (model["name"], model.get("crashes"), *model["pids"], *remote)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"must be between 0.1 and 3600, but is {text}")
    return value


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(run(top, sys.argv[1:]))
