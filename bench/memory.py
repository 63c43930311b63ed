"""What the replicas of a model take together: proportional memory, without the gateway and without keys and values.

    python -m bench.memory -m MODEL.gguf [--replicas 1,2,4] [--requests 20] [-- FLAGS OF corral serve]

A page that n processes map counts as 1/n in each (PSS), so the sum over all processes is what the machine gives. It is
read after every replica has answered, because pages that were shared at the start are copied when they are written to.
"""

import argparse
import json
import tempfile
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from bench.load import prompt
from bench.servers import corral, running

_ANSWER_SECONDS = 300
_PROMPT_WORDS, _MAX_TOKENS = 40, 30


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process, in bytes."""

    name: str
    proportional: int
    private: int  # what only this process has
    cache: int  # proportional, of the largest mapping without a file: keys and values


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    found = {number: _measure(options, number) for number in options.replicas}
    print(as_markdown(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.memory")
    parser.add_argument("-m", "--model", type=Path, required=True)
    parser.add_argument("--replicas", type=lambda text: [int(number) for number in text.split(",")], default=[1, 2, 4])
    parser.add_argument("--requests", type=int, default=20, help="for each replica")
    parser.add_argument("flags", nargs="*", default=["-c", "2048"])
    return parser


def _measure(options: argparse.Namespace, num_replicas: int) -> list[Usage]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "corral.toml")
        path = json.dumps(str(options.model.resolve()))
        config.write_text(f"[models.{options.model.stem}]\npath = {path}\nreplicas = {num_replicas}\n")
        setup = corral("", [], ["--config", str(config), *options.flags])
        port = setup.commands[0][-1]
        place = (f"http://127.0.0.1:{port}", options.model.stem)
        with running(replace(setup, places=(place,))) as [gateway]:
            for number in range(options.requests * num_replicas):
                body = {"prompt": prompt(number, _PROMPT_WORDS, 0), "max_tokens": _MAX_TOKENS}
                _answer(f"{place[0]}/v1/completions", body)
            return [usage_of(child) for child in psutil.Process(gateway.pid).children(recursive=True)]


def _answer(url: str, body: dict[str, object]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as reply:
        reply.read()


# ---- what the system says ---------------------------------------------------------------------


def usage_of(process: psutil.Process) -> Usage:
    return read_smaps(process.name(), Path(f"/proc/{process.pid}/smaps").read_text().splitlines())


def read_smaps(name: str, lines: Iterable[str]) -> Usage:
    """From the lines of /proc/PID/smaps."""
    proportional = private = largest = cache = size = 0
    is_shared_memory = False
    for line in lines:
        key, _, rest = line.partition(" ")
        if not key.endswith(":"):
            is_shared_memory = rest.startswith("rw-s") and rest.endswith("(deleted)")
            continue
        value = int(number) << 10 if (number := rest.split()[0]).isdigit() else 0
        if key == "Size:":
            size = value
        elif key == "Pss:":
            proportional += value
            if is_shared_memory and size > largest:
                largest, cache = size, value
        elif key in ("Private_Clean:", "Private_Dirty:"):
            private += value
    return Usage(name, proportional, private, cache)


def as_markdown(found: dict[int, list[Usage]]) -> str:
    """A row for each number of replicas; ratios to the smallest."""
    lines = ["| replicas | together MiB | ratio | own of each MiB | nursery's own MiB | keys and values MiB |"]
    lines += ["|---|" + "---:|" * 5]
    one = _together(found[min(found)])
    for number, usages in sorted(found.items()):
        workers = [usage for usage in usages if usage.name != "corral-nursery"]
        own = sum(usage.private - usage.cache for usage in workers) / len(workers)
        nursery = sum(usage.private for usage in usages if usage not in workers)
        cells = (_together(usages), _together(usages) / one, own, nursery, sum(usage.cache for usage in usages))
        shown = (f"{cells[0] / 2**20:.0f}", f"{cells[1]:.2f}", *(f"{cell / 2**20:.0f}" for cell in cells[2:]))
        lines.append(f"| {number} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _together(usages: Iterable[Usage]) -> int:
    return sum(usage.proportional - usage.cache for usage in usages)


if __name__ == "__main__":
    raise SystemExit(main())
