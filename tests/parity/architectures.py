"""What a peer says of the tiny models of all architectures: which files, which prompts, and the record of its answers.

record_architectures.py asks the peer once; test_architectures.py makes the same files again and compares. Invariant: an
answer is the peer's log-probabilities of its likeliest tokens, with natural logarithms, after a prefix of `PROMPT`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.tiny_models import MODELS, write_model
from tests.worker.model.models import random_tokens
from worker.gguf import GGUF

RECORD = Path(__file__).with_name("architectures.json")
PROMPT = random_tokens(300, seed=11)
LENGTHS = (1, 2, 3, 17, 64, 150, 300)  # of prefixes: within the windows and far beyond
NUM_TOP = 24
IGNORED = ("mixtral, one expert, scaled", "phi3 with a window")  # the peer does not heed what these files say
CASES = [(name, "F32") for name in MODELS if name not in IGNORED]
CASES += [("llama", "Q8_0"), ("gemma3", "Q4_0"), ("qwen3moe", "Q8_0")]


@dataclass(frozen=True)
class Answers:
    """Of one file; by length of the prefix: log-probabilities by token."""

    fingerprint: str
    logprobs: Mapping[int, Mapping[int, float]]


def case_name(model: str, quant: str) -> str:
    return f"{model} {quant}"


def write_case(folder: Path, model: str, quant: str) -> Path:
    return write_model(folder / "model.gguf", MODELS[model], quant)


def fingerprint(path: Path) -> str:
    """Of the weights and the architecture's metadata; the vocabulary has no part in any answer."""
    digest = hashlib.sha256()
    with GGUF.open(path) as gguf:
        architecture = gguf.metadata["general.architecture"]
        for key in sorted(key for key in gguf.metadata if key.startswith(f"{architecture}.")):
            digest.update(f"{key}={gguf.metadata[key]}\n".encode())
        for name in sorted(gguf.tensors):
            tensor = gguf.tensors[name]
            digest.update(f"{name} {tensor.type.name} {tensor.shape}\n".encode() + tensor.data.tobytes())
    return digest.hexdigest()


def load() -> dict[str, Answers]:
    raw = json.loads(RECORD.read_text("utf-8"))
    return {name: _answers_from(item) for name, item in raw["cases"].items()}


def save(peer: str, answers: Mapping[str, Answers]) -> None:
    """One prefix a line; token, log-probability, token, ..."""
    cases = ",\n".join(f'"{name}":{_lines(answer)}' for name, answer in answers.items())
    RECORD.write_text(f'{{"peer":{json.dumps(peer)},"cases":{{\n{cases}\n}}}}\n', "utf-8")


def _lines(answers: Answers) -> str:
    flat = {length: [x for pair in tops.items() for x in pair] for length, tops in answers.logprobs.items()}
    lines = ",\n".join(f'"{length}":{json.dumps(values, separators=(",", ":"))}' for length, values in flat.items())
    return f'{{"fingerprint":"{answers.fingerprint}","logprobs":{{\n{lines}}}}}'


def _answers_from(item: Mapping[str, object]) -> Answers:
    lines = item["logprobs"]
    assert isinstance(lines, dict)
    logprobs = {int(n): dict(zip(map(int, line[::2]), line[1::2], strict=True)) for n, line in lines.items()}
    return Answers(str(item["fingerprint"]), logprobs)
