"""Prints digests of what the kernels compute, as JSON: python -m ... [--emulate SET] WHAT ...

A program of its own, because the instruction set (CORRAL_ISA, or the emulated one) is chosen when the kernels are
imported. What is computed is the same in every call; only how may differ.
"""

import argparse
import hashlib
import importlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.worker.kernels.emulation import emulate
from worker.kernels import instruction_sets


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def block_dots() -> str:
    """Blocks of every kind of code, which are exact or fail; with two tokens, to compile little.

    Also with as many as take unpacked weights, where there are such.
    """
    dots = importlib.import_module("tests.worker.kernels.test_dots")
    rng = np.random.default_rng(0)
    for count in filter(lambda count: count == 2 or dots.takes_unpacked(count), dots.COUNTS):
        for name, code in dots.CODES.items():
            codes, x = rng.integers(0, 1 << code.bits, (16, 32)), rng.integers(-127, 128, (count, 32))
            dots.assert_dots_are_exact(name, codes, x)
            highest = np.full((16, 32), (1 << code.bits) - 1)
            dots.assert_dots_are_exact(name, highest, np.repeat([[127], [-127]] * (count // 2), 32, axis=1))
    return "exact"


def product() -> str:
    """A product with 47 tokens: tiles of all sizes, but of four where 32 tokens take unpacked weights."""
    matrix = importlib.import_module("tests.worker.kernels.callers").random_matrix("Q4_1", 37, 96)
    x = np.random.default_rng(0).standard_normal((47, 96))
    return digest(importlib.import_module("tests.worker.kernels.test_matmul").product(matrix, x))


def logits() -> str:
    """A whole model, whose norms, gates and attention LLVM vectorises as it likes."""
    fixtures = importlib.import_module("tests.fixtures_gguf")
    models = importlib.import_module("tests.worker.model.models")
    with tempfile.TemporaryDirectory() as folder:
        path = fixtures.write_tiny_llama(Path(folder) / "model.gguf", embedding_quant="Q4_1")
        with models.loaded(path, num_threads=2) as decoder:
            return digest(models.all_logits(decoder, models.random_tokens(61)))


PARTS: dict[str, Callable[[], str]] = {"block_dots": block_dots, "product": product, "logits": logits}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--emulate", choices=instruction_sets.INSTRUCTION_SETS)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    arguments = parser.parse_args()
    if arguments.emulate:
        emulate(arguments.emulate)
    chosen = instruction_sets.INSTRUCTION_SET
    print(json.dumps({"set": chosen.name} | {part: PARTS[part]() for part in arguments.parts}))


if __name__ == "__main__":
    main()
