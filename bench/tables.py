"""What the samples of a comparison say, as a Markdown table and as JSON.

Called by peers.py. Invariant: a median is over runs during which others left the machine alone; where there are none,
it says so. Of an engine's settings the one with the best median stands in the table.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from bench.ceiling import Weights, ceiling
from bench.engines import Sample
from bench.limits import Limits

MOST_FOREIGN = 0.08  # of all processors' time; a run with more does not count if there are others


@dataclass(frozen=True, slots=True)
class Median:
    """Of one engine in one test."""

    rate: float
    num_runs: int
    noisy: bool
    setting: str = ""

    def of(self, limit: float) -> str:
        """The rate, and what part of the limit it is."""
        part = f"{self.rate / limit:.0%}" if limit else ""
        told = [text for text in ("noisy" if self.noisy else "", part, self.setting) if text]
        return f"{self.rate:.0f} ({', '.join(told)})" if told else f"{self.rate:.0f}"


@dataclass(frozen=True, slots=True)
class Row:
    """One test of one model."""

    model: str
    test: str
    limit: float  # tokens a second that no engine can pass; 0: not known
    engines: Mapping[str, Median]

    def ratio(self, ours: str, other: str) -> str:
        """How many times as fast; empty where one of them was not measured."""
        if ours not in self.engines or other not in self.engines:
            return ""
        found, peer = self.engines[ours], self.engines[other]
        return f"{found.rate / peer.rate:.2f}{' (noisy)' if found.noisy or peer.noisy else ''}"


def median(samples: Iterable[Sample]) -> Median:
    """Over the quiet runs of one setting, or over all where none was quiet. There must be a sample."""
    every = list(samples)
    quiet = [sample for sample in every if sample.foreign <= MOST_FOREIGN]
    counted = quiet or every
    return Median(statistics.median(s.rate for s in counted), len(counted), not quiet, every[0].setting)


def best(samples: Sequence[Sample]) -> Median:
    """The fastest setting's median; a quiet one goes before any noisy one. A single setting needs no name."""
    settings = dict.fromkeys(sample.setting for sample in samples)
    medians = [median(s for s in samples if s.setting == setting) for setting in settings]
    return max(medians, key=lambda found: (not found.noisy, found.rate))


def fastest(found: Iterable[Limits], num_threads: int) -> Limits:
    """The best that the machine showed: a limit is not undercut by noise."""
    same = [one for one in found if one.num_threads == num_threads]
    return Limits(num_threads, max(one.read_bytes for one in same), max(one.products for one in same))


def compare(samples: Sequence[Sample], found: Sequence[Limits], weights: Mapping[str, Weights]) -> list[Row]:
    """Rows in the order of the samples."""
    limit = fastest(found, max(one.num_threads for one in found))
    rows = []
    for model, test in dict.fromkeys((sample.model, sample.test) for sample in samples):
        same = [sample for sample in samples if (sample.model, sample.test) == (model, test)]
        names = dict.fromkeys(sample.engine for sample in same)
        engines = {name: best([sample for sample in same if sample.engine == name]) for name in names}
        rows.append(Row(model, test, ceiling(test, weights[model], limit), engines))
    return rows


def limits_table(found: Sequence[Limits]) -> str:
    """The machine's rates by number of threads."""
    lines = [_line(["threads", "read GB/s", "int8 GMAC/s"]), "|---:|---:|---:|"]
    for num_threads in sorted({one.num_threads for one in found}):
        one = fastest(found, num_threads)
        lines.append(_line([str(num_threads), f"{one.read_bytes / 1e9:.1f}", f"{one.products / 1e9:.0f}"]))
    return "\n".join(lines) + "\n"


def rates_table(rows: Sequence[Row], names: Sequence[str], ours: str) -> str:
    """Tokens a second and their part of the limit; behind ours, its ratio to each of the others."""
    others = [name for name in names if name != ours and ours in names]
    header = ["model", "test", *names, *(f"{ours} / {name}" for name in others), "limit"]
    lines = [_line(header), "|---|---|" + "---:|" * (len(header) - 2)]
    for row in rows:
        cells = [row.engines[name].of(row.limit) if name in row.engines else "" for name in names]
        ratios = [row.ratio(ours, name) for name in others]
        lines.append(_line([row.model, row.test, *cells, *ratios, f"{row.limit:.0f}" if row.limit else ""]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_json(rows: Sequence[Row], samples: Sequence[Sample], found: Sequence[Limits]) -> str:
    """The table, and everything that it was made from."""
    content = {
        "rows": [asdict(row) for row in rows],
        "limits": [asdict(one) for one in found],
        "samples": [asdict(sample) for sample in samples],
    }
    return json.dumps(content, indent=1) + "\n"
