"""What a person sees when `corral serve` starts: progress while models load, then a table, then "ready".

Called by serve.py. Writes to standard error. Invariant: on a pipe it writes whole lines only.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from router.config import AliasConfig, GatewayConfig
from router.fleet.fleet import Fleet
from router.fleet.lifecycle import ModelState, ModelStatus

_PIPE_WIDTH = 200
_STYLES = {ModelState.READY: "green", ModelState.FAILED: "red", ModelState.CRASHED: "yellow"}


class Banner:
    """The display of one start."""

    def __init__(self, config: GatewayConfig, addresses: Sequence[str]) -> None:
        self._config = config
        self._addresses = addresses
        self._console = Console(stderr=True, highlight=False)
        if not self._console.is_terminal:
            self._console = Console(stderr=True, highlight=False, width=_PIPE_WIDTH, no_color=True)

    def listening(self) -> None:
        """The first lines: where, who may call, and which flags do nothing."""
        auth = f"keys: {len(self._config.keys)}" if self._config.asks_for_keys else "no key asked for"
        self._line(f"corral listens on {' '.join(self._addresses)} ({auth})")
        for note in self._config.notes:
            self._line(f"note: {note}")

    async def loading(self, fleet: Fleet) -> None:
        """Shows progress until every model has settled."""
        columns = (
            TextColumn("{task.fields[model]}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as bars:
            tasks: dict[str, TaskID] = {}
            stages: dict[str, str] = {}
            while not fleet.settled:
                self._update(bars, tasks, stages, fleet.models())
                await fleet.change()

    def _update(
        self, bars: Progress, tasks: dict[str, TaskID], stages: dict[str, str], models: Sequence[ModelStatus]
    ) -> None:
        """Moves the bars; without a terminal, says when a stage begins."""
        for status in models:
            if status.state is ModelState.UNLOADED:
                continue
            stage = status.progress.stage if status.progress else status.state.value
            fraction = status.progress.fraction if status.progress else 0.0
            if status.name not in tasks:
                tasks[status.name] = bars.add_task("starting", total=1.0, model=_shown(status.name))
            bars.update(tasks[status.name], completed=fraction, description=stage)
            if not self._console.is_terminal and stages.get(status.name) != stage:
                self._line(f"{_shown(status.name)}: {stage}")
            stages[status.name] = stage

    def settled(self, models: Sequence[ModelStatus]) -> None:
        """The table of models, and "ready" if each of them is or can be loaded."""
        self._console.print(_table(models))
        if self._config.aliases:
            self._line(f"aliases: {'; '.join(map(_alias, self._config.aliases))}")
        for status in models:
            if status.reason:
                self._line(f"{_shown(status.name)}: {status.reason}")
        num_ready = sum(status.state in (ModelState.READY, ModelState.UNLOADED) for status in models)
        ready = "ready" if num_ready == len(models) else f"{num_ready} of {len(models)} models ready"
        first = self._addresses[0]
        self._line(f"{ready}: OpenAI's interface at {first}/v1, llama-server's at {first}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


def _table(models: Sequence[ModelStatus]) -> Table:
    table = Table("model", "aliases", "architecture", "type", "context", "weights", "state", box=None)
    for status in models:
        known = status.description
        table.add_row(
            _shown(status.path.name if status.path is not None else status.name),
            _shown(" ".join(status.aliases)),
            known.architecture if known else "",
            known.file_type if known else "",
            str(known.context_length) if known else "",
            _megabytes(known.size_bytes) if known else "",
            status.state.value,
            style=_STYLES.get(status.state, ""),
        )
    return table


def _alias(alias: AliasConfig) -> str:
    """ "chat -> small (9), new (1)": what a name leads to, with the shares if there are several."""
    shares = [_shown(name) if len(alias.targets) == 1 else f"{_shown(name)} ({w:g})" for name, w in alias.targets]
    return f"{_shown(alias.name)} -> {', '.join(shares)}"


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.0f} MB"


def _shown(text: str) -> str:
    """A name without control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
