"""Records the peer's perplexity of perplexity.txt, for test_perplexity.py:

    python -m tests.parity.record_perplexity FOLDER smollm2=MODEL.gguf gemma3-270m=MODEL.gguf

FOLDER holds llama-perplexity and llama-quantize. Next to the peer's figure for the file itself stands its figure for
the same weights written out as F32, with which it rounds no activations: the truth that both engines are near.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

TEXT = Path(__file__).with_name("perplexity.txt")
RECORD = Path(__file__).with_name("perplexity.json")
WINDOW = 512


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one file."""

    perplexities: tuple[float, ...]  # after each window
    uncertainty: float


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the peer found in one model, and in its weights as F32."""

    model_size: int
    peer: Figures
    unrounded: Figures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="record_perplexity", description="Record the peer's perplexities.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=FILE")
    options = parser.parse_args(arguments)
    recorded = {}
    for name, _, path in (text.partition("=") for text in options.models):
        recorded[name] = asdict(measure(options.folder, Path(path)))
        print(name, recorded[name], file=sys.stderr, flush=True)
    RECORD.write_text(json.dumps(recorded, indent=1) + "\n", "utf-8")
    return 0


def load() -> dict[str, Recorded]:
    """By the catalogue's name of the model."""
    return {
        name: Recorded(item["model_size"], _figures(**item["peer"]), _figures(**item["unrounded"]))
        for name, item in json.loads(RECORD.read_text("utf-8")).items()
    }


def _figures(perplexities: Sequence[float], uncertainty: float) -> Figures:
    return Figures(tuple(perplexities), uncertainty)


def measure(folder: Path, model: Path) -> Recorded:
    """Runs the peer on a file, and on its weights as F32."""
    with tempfile.TemporaryDirectory() as scratch:
        unrounded = quantize(folder, model, Path(scratch) / "f32.gguf", "F32")
        return Recorded(model.stat().st_size, peer(folder, model), peer(folder, unrounded))


def quantize(folder: Path, model: Path, out: Path, file_type: str) -> Path:
    """The model with all its matrices in one type, where their rows allow it."""
    command = [folder / "llama-quantize", "--allow-requantize", "--pure", model, out, file_type]
    subprocess.run(command, check=True, capture_output=True)
    return out


def peer(folder: Path, model: Path) -> Figures:
    """One thread, because the peer's barriers are slow in company."""
    return _read([str(folder / "llama-perplexity"), "-t", "1"], model)


def ours(model: Path) -> Figures:
    """By the command that users type."""
    return _read([sys.executable, "-m", "router", "perplexity"], model)


def _read(command: Sequence[str], model: Path) -> Figures:
    flags = ["-m", str(model), "-f", str(TEXT), "-c", str(WINDOW)]
    done = subprocess.run([*command, *flags], capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    final = re.search(r"Final estimate: PPL = [\d.]+ \+/- ([\d.]+)", said)
    assert final, said
    return Figures(tuple(float(text) for text in re.findall(r"\[\d+\]([\d.]+),", said)), float(final[1]))


if __name__ == "__main__":
    raise SystemExit(main())
