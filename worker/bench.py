"""`python -m worker.bench`: how fast the decoder is on this machine, with llama-bench's flags, fields and vocabulary.

Called by people and by bench/peers.py. It drives the decoder alone, without scheduler, sampler and gateway, as
llama-bench does: pp is one prompt read in chunks with the logits of each chunk's last token, tg is one token a step
with its logits. Invariant: every repetition of a test makes the same calls on the same tokens, after one warm-up.
"""

import argparse
import csv
import io
import itertools
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson

from worker.config import WorkerConfig
from worker.errors import InvalidRequest, WorkerError
from worker.gguf import GGUF
from worker.model.decoder import Decoder
from worker.model.load import load_model
from worker.workload import Trial, measure

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Setup:
    """What needs a decoder of its own."""

    num_threads: int
    kv_type: str


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        rows = list(_rows(options))
    except (WorkerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sys.stdout.write(FORMATS[options.output](rows))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="corral bench", description="Measure prompt reading (pp) and generation (tg). Several values: 128,512"
    )
    parser.add_argument("-m", "--model", type=_values(Path), required=True, metavar="FILE")
    parser.add_argument("-p", "--n-prompt", type=_values(int), default=[512], metavar="N")
    parser.add_argument("-n", "--n-gen", type=_values(int), default=[128], metavar="N")
    parser.add_argument("-d", "--n-depth", type=_values(int), default=[0], metavar="N")
    parser.add_argument("-npl", "--n-parallel", type=_values(int), default=[1], metavar="N")
    parser.add_argument("-b", "--batch-size", type=_values(int), default=[2048], metavar="N")
    parser.add_argument("-ub", "--ubatch-size", type=_values(int), default=[512], metavar="N")
    parser.add_argument("-ctk", "--cache-type-k", type=_values(str), default=["f16"], metavar="TYPE")
    parser.add_argument("-ctv", "--cache-type-v", type=_values(str), default=["f16"], metavar="TYPE")
    parser.add_argument("-t", "--threads", type=_values(int), default=[0], metavar="N")
    parser.add_argument("-r", "--repetitions", type=int, default=5, metavar="N")
    parser.add_argument("-o", "--output", choices=FORMATS, default="md")
    return parser


def _values(convert: Callable[[str], Value]) -> Callable[[str], list[Value]]:
    return lambda text: [convert(part) for part in text.split(",")]


def setups(options: argparse.Namespace) -> list[Setup]:
    kv_types = list(itertools.product(options.cache_type_k, options.cache_type_v))
    for key_type, value_type in kv_types:
        if key_type != value_type:
            raise InvalidRequest(f"keys and values are kept in one type, not {key_type} and {value_type}")
    return [Setup(num, kv_type) for num in options.threads for kv_type, _ in kv_types]


def trials(options: argparse.Namespace) -> list[Trial]:
    """As llama-bench: every prompt length, then every generation length, for every combination of the rest."""
    found = []
    for depth, batch, ubatch in itertools.product(options.n_depth, options.batch_size, options.ubatch_size):
        found += [Trial(num, 0, depth, 1, batch, ubatch) for num in options.n_prompt if num]
        found += [
            Trial(0, num, depth, parallel, batch, ubatch)
            for num, parallel in itertools.product(options.n_gen, options.n_parallel)
            if num
        ]
    return found


def _rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    planned = trials(options)
    for path, setup in itertools.product(options.model, setups(options)):
        config = WorkerConfig(path, "", num_threads=setup.num_threads, kv_type_k=setup.kv_type, kv_type_v=setup.kv_type)
        with GGUF.open(path) as gguf:
            decoder = _load(gguf, config, planned)
            try:
                for trial in planned:
                    _say(trial.name)
                    samples = measure(decoder, trial, options.repetitions)
                    yield row(_facts(gguf, config, decoder), trial, samples)
            finally:
                decoder.close()
    _say("")


def _load(gguf: GGUF, config: WorkerConfig, planned: Sequence[Trial]) -> Decoder:
    """One decoder with room for the largest of the trials."""
    decoder = load_model(gguf, config, lambda what, _: _say(what))
    decoder.reserve(
        num_blocks=max((trial.num_blocks * trial.num_parallel for trial in planned), default=0),
        max_tokens=max((max(trial.chunk, trial.num_parallel) for trial in planned), default=0),
        max_sequences=max((trial.num_parallel for trial in planned), default=0),
    )
    return decoder


def _say(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


# ---- what to say ------------------------------------------------------------------------------


def _facts(gguf: GGUF, config: WorkerConfig, decoder: Decoder) -> dict[str, Any]:
    """The fields that all tests of one decoder share, in llama-bench's order and names."""
    return {
        "build_commit": version("corral"),
        "build_number": 0,
        "cpu_info": _cpu_name(),
        "gpu_info": "",
        "backends": f"CPU ({decoder.instruction_set})",
        "model_filename": str(config.model_path),
        "model_type": _model_type(gguf),
        "model_size": sum(tensor.data.nbytes for tensor in gguf.tensors.values()),
        "model_n_params": decoder.num_parameters,
        "n_threads": decoder.num_threads,
        "type_k": config.kv_type_k,
        "type_v": config.kv_type_v,
    }


def _cpu_name() -> str:
    with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _model_type(gguf: GGUF) -> str:
    """Architecture, size label, and the type that holds most of the weights."""
    elements: dict[str, int] = {}
    for tensor in gguf.tensors.values():
        elements[tensor.type.name] = elements.get(tensor.type.name, 0) + int(np.prod(tensor.shape))
    words = (gguf.metadata["general.architecture"], gguf.metadata.get("general.size_label", ""))
    return " ".join([*(str(word) for word in words if word), max(elements, key=elements.__getitem__)])


def row(facts: Mapping[str, Any], trial: Trial, samples: Sequence[int]) -> dict[str, Any]:
    rates = [trial.num_tokens * 1e9 / nanoseconds for nanoseconds in samples]
    return {
        **facts,
        "n_batch": trial.num_batch,
        "n_ubatch": trial.num_ubatch,
        "n_prompt": trial.num_prompt,
        "n_gen": trial.num_generated,
        "n_depth": trial.depth,
        "n_parallel": trial.num_parallel,
        "test_time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "avg_ns": round(statistics.fmean(samples)),
        "stddev_ns": round(_deviation(samples)),
        "avg_ts": round(statistics.fmean(rates), 6),
        "stddev_ts": round(_deviation(rates), 6),
        "samples_ns": list(samples),
        "samples_ts": [round(rate, 4) for rate in rates],
        "test": trial.name,
    }


def _deviation(samples: Sequence[float]) -> float:
    return statistics.stdev(samples) if len(samples) > 1 else 0.0


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| model | size | params | backend | threads | test | t/s |", "|---|---:|---:|---|---:|---:|---:|"]
    for one in rows:
        size, params = f"{one['model_size'] / 2**20:.2f} MiB", f"{one['model_n_params'] / 1e6:.2f} M"
        cells = (one["model_type"], size, params, one["backends"], str(one["n_threads"]), one["test"])
        lines.append(f"| {' | '.join(cells)} | {one['avg_ts']:.2f} ± {one['stddev_ts']:.2f} |")
    return "\n".join(lines) + "\n"


def as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    return orjson.dumps(list(rows), option=orjson.OPT_INDENT_2).decode() + "\n"


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=_columns(rows), extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lists do not go into a table."""
    return [name for name in (rows[0] if rows else {}) if not name.startswith("samples_")]


FORMATS: Mapping[str, Callable[[Sequence[Mapping[str, Any]]], str]] = {
    "md": as_markdown,
    "json": as_json,
    "csv": as_csv,
}


if __name__ == "__main__":
    raise SystemExit(main())
