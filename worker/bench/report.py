"""Rows of a speed measurement in the fields of llama-bench, and its output formats.

Called by __main__.py. Invariant: every row has the fields of the peer's rows, in their order, so that a program that
reads one reads the other; what does not apply here has the peer's default.
"""

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from worker.bench.loading import Loaded
from worker.bench.workload import Trial
from worker.file_types import file_type_name

Row = Mapping[str, Any]
Format = Callable[[Iterable[Row], Sequence[str]], Iterator[str]]  # rows, optional columns of the table -> text

# About devices and threads: they say nothing here, but are looked for.
_WITHOUT_MEANING: Row = {
    "cpu_mask": "0x0", "cpu_strict": False, "poll": 50, "type_k": "", "type_v": "", "n_gpu_layers": -1,
    "n_cpu_moe": 0, "split_mode": "layer", "main_gpu": 0, "no_kv_offload": False, "flash_attn": -1, "devices": "auto",
    "tensor_split": "0.00", "tensor_buft_overrides": "none", "load_mode": "auto", "lazy_mode": "auto",
    "embeddings": False, "no_op_offload": 0, "no_host": False, "repack": True, "fit_target": 0, "fit_min_ctx": 0,
}  # fmt: skip


def facts(model: Loaded) -> dict[str, Any]:
    """What all tests of one decoder share; `row` fills in the sizes of batches."""
    gguf, decoder = model.gguf, model.decoder
    architecture = gguf.metadata["general.architecture"]
    return {
        "build_commit": version("corral"),
        "build_number": 0,
        "cpu_info": _cpu_name(),
        "gpu_info": "",
        "backends": f"CPU ({decoder.instruction_set})",
        "model_filename": str(model.config.model_path),
        "model_type": f"{architecture} {_rounded(decoder.num_parameters)} {file_type_name(gguf.metadata)}",
        "model_size": sum(tensor.data.nbytes for tensor in gguf.tensors.values()),
        "model_n_params": decoder.num_parameters,
        "n_batch": 0,
        "n_ubatch": 0,
        "n_threads": decoder.num_threads,
        **_WITHOUT_MEANING,
        "type_k": model.config.kv_type_k,
        "type_v": model.config.kv_type_v,
    }


def _cpu_name() -> str:
    with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _rounded(num_parameters: int) -> str:
    return f"{num_parameters / 1e6:.0f}M" if num_parameters < 1e9 else f"{num_parameters / 1e9:.1f}B"


def row(shared: Row, trial: Trial, samples: Sequence[int]) -> dict[str, Any]:
    """`samples`: nanoseconds of each repetition."""
    rates = [trial.num_tokens * 1e9 / nanoseconds for nanoseconds in samples]
    return {
        **shared,
        "n_batch": trial.num_batch,
        "n_ubatch": trial.num_ubatch,
        "n_prompt": trial.num_prompt,
        "n_gen": trial.num_generated,
        "n_depth": trial.depth,
        "test_time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "avg_ns": round(statistics.fmean(samples)),
        "stddev_ns": round(_deviation(samples)),
        "avg_ts": round(statistics.fmean(rates), 6),
        "stddev_ts": round(_deviation(rates), 6),
        "samples_ns": list(samples),
        "samples_ts": [round(rate, 4) for rate in rates],
    }


def _deviation(samples: Sequence[float]) -> float:
    return statistics.stdev(samples) if len(samples) > 1 else 0.0


# ---- formats ----------------------------------------------------------------------------------


class _Column(NamedTuple):
    title: str
    width: int
    left: bool
    text: Callable[[Row], str]

    def cell(self, text: str) -> str:
        return text.ljust(self.width) if self.left else text.rjust(self.width)

    @property
    def rule(self) -> str:
        return "-" * self.width if self.left else "-" * (self.width - 1) + ":"


def _field(name: str, title: str, width: int) -> _Column:
    return _Column(title, width, False, lambda row: str(row[name]))


def _size(row: Row) -> str:
    size = row["model_size"]
    return f"{size / 2**20:.2f} MiB" if size < 2**30 else f"{size / 2**30:.2f} GiB"


def _parameters(row: Row) -> str:
    num = row["model_n_params"]
    return f"{num / 1e6:.2f} M" if num < 1e9 else f"{num / 1e9:.2f} B"


def _test(row: Row) -> str:
    return Trial(row["n_prompt"], row["n_gen"], row["n_depth"]).name


_FIRST = (
    _Column("model", 30, True, lambda row: row["model_type"]),
    _Column("size", 10, False, _size),
    _Column("params", 10, False, _parameters),
    _Column("backend", 10, True, lambda row: row["backends"]),
    _field("n_threads", "threads", 7),
)
_LAST = (
    _Column("test", 15, False, _test),
    _Column("t/s", 20, False, lambda row: f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}"),
)
OPTIONAL: Mapping[str, _Column] = {  # shown where they differ from the default
    "n_batch": _field("n_batch", "n_batch", 7),
    "n_ubatch": _field("n_ubatch", "n_ubatch", 8),
    "type_k": _field("type_k", "type_k", 6),
    "type_v": _field("type_v", "type_v", 6),
}


def _markdown(rows: Iterable[Row], optional: Sequence[str]) -> Iterator[str]:
    columns = [*_FIRST, *(OPTIONAL[name] for name in optional), *_LAST]
    for place, one in enumerate(rows):
        if place == 0:
            yield _table_line(column.cell(column.title) for column in columns)
            yield _table_line(column.rule for column in columns)
        yield _table_line(column.cell(column.text(one)) for column in columns)


def _table_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _json(rows: Iterable[Row], optional: Sequence[str]) -> Iterator[str]:
    separator = "[\n"
    for one in rows:
        text = orjson.dumps(one, option=orjson.OPT_INDENT_2).decode()
        yield separator + "\n".join(f"  {line}" for line in text.splitlines())
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


def _json_lines(rows: Iterable[Row], optional: Sequence[str]) -> Iterator[str]:
    for one in rows:
        yield orjson.dumps(one).decode() + "\n"


def _csv(rows: Iterable[Row], optional: Sequence[str]) -> Iterator[str]:
    for place, one in enumerate(rows):
        values = _scalars(one)
        line = io.StringIO()
        csv.writer(line, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(values.values())
        yield (",".join(values) + "\n" if place == 0 else "") + line.getvalue()


def _sql(rows: Iterable[Row], optional: Sequence[str]) -> Iterator[str]:
    types = {str: "TEXT", int: "INTEGER", float: "REAL"}
    for place, one in enumerate(rows):
        values = _scalars(one)
        if place == 0:
            lines = ",\n".join(f"  {name} {types[type(value)]}" for name, value in values.items())
            yield f"CREATE TABLE IF NOT EXISTS llama_bench (\n{lines}\n);\n\n"
        quoted = ", ".join("'" + str(value).replace("'", "''") + "'" for value in values.values())
        yield " ".join(("INSERT INTO llama_bench", f"({', '.join(values)})", "VALUES", f"({quoted});\n"))


def _scalars(row: Row) -> dict[str, str | int | float]:
    """Lists do not go into a table, and truth is a number there."""
    fields = {name: value for name, value in row.items() if not name.startswith("samples_")}
    return {name: int(value) if isinstance(value, bool) else value for name, value in fields.items()}


FORMATS: Mapping[str, Format] = {
    "md": _markdown,
    "json": _json,
    "jsonl": _json_lines,
    "csv": _csv,
    "sql": _sql,
}
