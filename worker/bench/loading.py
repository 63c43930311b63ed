"""A decoder without an engine around it, and how a command that measures with it ends.

Called by this package's commands and by perplexity.py. Invariant: the decoder is closed when its user leaves, and
progress goes to a terminal's standard error or nowhere.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from worker.config import WorkerConfig
from worker.errors import WorkerError
from worker.gguf import GGUF
from worker.model.decoder import BLOCK_SIZE, Decoder
from worker.model.load import load_model

_GIB = 1 << 30


class TooLittleMemory(WorkerError):
    """The cache that is asked for does not fit this machine."""


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

    def reserve(self, num_blocks: int, max_tokens: int, max_sequences: int) -> None:
        """As the decoder's; raises TooLittleMemory where the cache would not fit this machine."""
        needed, available = num_blocks * self.decoder.block_bytes, psutil.virtual_memory().available
        if needed > available:
            raise TooLittleMemory(
                f"{num_blocks * BLOCK_SIZE} positions need {needed / _GIB:.1f} GiB, {available / _GIB:.1f} GiB are free"
            )
        self.decoder.reserve(num_blocks, max_tokens, max_sequences)


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


def status_of(run: Callable[[], None]) -> int:
    """A command's status: 0, or 1 with one line about a model, a text or a size that will not do."""
    try:
        run()
    except (WorkerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    except MemoryError:
        print("error: out of memory; ask for fewer tokens or threads", file=sys.stderr)
    else:
        return 0
    return 1


def say(text: str) -> None:
    """Replaces the terminal's last line; an empty text clears it."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
