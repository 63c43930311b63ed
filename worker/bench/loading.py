"""A decoder without an engine around it, for the commands that measure.

Invariant: the decoder is closed when its user leaves, and progress goes to a terminal's standard error or nowhere.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from worker.config import WorkerConfig
from worker.gguf import GGUF
from worker.model.decoder import Decoder
from worker.model.load import load_model


@dataclass(frozen=True, slots=True)
class Setup:
    """What needs a decoder of its own."""

    num_threads: int = 0  # 0: one for each usable core
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to be measured; `reserve` is still to be called."""

    gguf: GGUF
    config: WorkerConfig
    decoder: Decoder


@contextmanager
def loaded(path: Path, setup: Setup, say: Callable[[str], None]) -> Iterator[Loaded]:
    """Raises WorkerError or OSError if the file cannot be used."""
    config = WorkerConfig(
        path, "", num_threads=setup.num_threads, kv_type_k=setup.kv_type_k, kv_type_v=setup.kv_type_v
    )
    with GGUF.open(path) as gguf:
        decoder = load_model(gguf, config, lambda what, _: say(what))
        try:
            yield Loaded(gguf, config, decoder)
        finally:
            decoder.close()


def say(text: str) -> None:
    """Replaces the terminal's last line; an empty text clears it."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
