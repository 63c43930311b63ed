"""The fleet as a table for people: one row per model. Called by ps.py and top.py. Pure but for `console`.

Invariant: what a gateway tells is shown without control characters, an unknown figure is a dash, never a zero, and no
state or figure is cut: a narrow terminal breaks the lines of names, and a pipe gets a line for each model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

NOTHING = "-"
PIPE_WIDTH = 100_000
_STYLES = {
    "ready": "green",
    "loading": "yellow",
    "connecting": "yellow",
    "crashed": "red",
    "unreachable": "red",
    "failed": "red",
}


def console() -> Console:
    """Standard output, as wide as a table may become where nobody looks at it."""
    made = Console()
    return made if made.is_terminal else Console(width=PIPE_WIDTH)


def fleet_table(models: Sequence[Mapping[str, Any]]) -> Table:
    """A table of /admin/fleet's models."""
    columns = {name: [value(model) for model in models] for name, value in COLUMNS}
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for name, cells in list(columns.items()):
        if name in _OPTIONAL and not any(cells):
            del columns[name]
        elif name in _NUMBERS:
            table.add_column(name, no_wrap=True, justify="right")
        else:
            table.add_column(name, no_wrap=name not in _BREAKABLE, overflow="fold")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _plain(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda model: shown(model.get(name))


def shown(value: Any) -> str:
    """A value without control characters and without markup."""
    if value is None:
        return NOTHING
    return escape("".join(letter if letter.isprintable() else "?" for letter in str(value)))


def _state(model: Mapping[str, Any]) -> str:
    state, progress = shown(model["state"]), model.get("progress")
    if model["state"] == "loading" and progress:
        state += f" {progress['fraction']:.0%}"
    style = _STYLES.get(model["state"])
    return f"[{style}]{state}[/{style}]" if style else state


def _workers(model: Mapping[str, Any]) -> Iterator[str]:
    """Processes by their ids, workers on other hosts by their addresses."""
    yield from map(str, model.get("pids") or ())
    for worker in model.get("remote") or ():
        yield worker["address"] if worker["state"] == "ready" else f"{worker['address']} ({worker['state']})"


def _megabytes(model: Mapping[str, Any]) -> str:
    """What its processes take together: replicas share most of their pages, which each one counts as resident."""
    size = model.get("proportional_bytes") or model.get("resident_bytes")
    return NOTHING if size is None else f"{size / 1e6:.0f} MB"


def _rate(model: Mapping[str, Any]) -> str:
    rate = model.get("tokens_per_second")
    return NOTHING if rate is None else f"{rate:.1f}"


def _note(model: Mapping[str, Any]) -> str:
    """Why the model is in its state, and why a worker elsewhere is not ready while others are."""
    notes = [model.get("reason") or ""]
    for worker in model.get("remote") or ():
        if worker["state"] != "ready" and worker.get("reason") and worker["reason"] not in notes:
            notes.append(f"{worker['address']}: {worker['reason']}")
    return shown("; ".join(filter(None, notes)))


COLUMNS: Sequence[tuple[str, Callable[[Mapping[str, Any]], str]]] = (
    ("model", _plain("name")),
    ("aliases", lambda model: shown(" ".join(model.get("aliases") or ()))),
    ("state", _state),
    ("pid", lambda model: shown(" ".join(_workers(model)) or None)),
    ("running", _plain("running")),
    ("waiting", _plain("waiting")),
    ("crashes", _plain("crashes")),
    ("memory", _megabytes),
    ("tokens", _plain("predicted_tokens_total")),
    ("tokens/s", _rate),
    ("note", _note),
)
_NUMBERS = {"running", "waiting", "crashes", "memory", "tokens", "tokens/s"}
_BREAKABLE = {"model", "aliases", "pid", "note"}
_OPTIONAL = {"aliases", "note"}  # left out where no model has any
