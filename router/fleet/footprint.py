"""How much memory a model will take when its cache is full, before it is loaded.

Called by need.py. What the machine gives, a page that several processes map counted once:

    weights   the file's size; packed they take as much, and the replicas map the same pages
    loaded    interpreter, libraries and compiled kernels: measured; and the vocabulary, by its length
    own       what a process that serves has beside that, measured: stacks, connections, pages it came to write to
    cache     keys and values of every layer, for all positions
    rotations two tables of cosines and sines, for all positions
    step      what one step computes, for all its tokens, each thread's copy of its inputs, logits of all sequences

A small model that guesses for it (--model-draft) adds its weights, and a cache, rotations and a step of its own; of its
vocabulary nothing is kept. Workers that are forked from a nursery share with it all that is loaded. Invariant: it never
fails; a file whose head cannot be read counts with its size and a bare process.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from router.config import ModelConfig
from router.fleet.ggufhead import VOCABULARY, read_numbers
from router.fleet.modelfile import size_on_disk

LOADED_BYTES = 96 << 20
OWN_BYTES = 16 << 20
TOKEN_BYTES = 256  # of one token of the vocabulary
BLOCK = 16  # positions
NUM_RUNNING = 16  # sequences at once, as workers choose
BATCHES = {"--batch-size": 2048, "--ubatch-size": 512}  # tokens of a step; the smaller number holds
CACHE_BYTES: Mapping[str, float] = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32, "q4_0": 18 / 32}  # of a value
NUM_DRAFTING = 3  # sequences that a small model guesses for at once, as workers choose
DRAFT_TYPE = "draft-simple"  # how a small model's guesses are called in --spec-type
_SAID_BY = {  # what a worker of the small model would be told: the first of these that the large one's is
    "--ctx-size": ("--ctx-size-draft", "--ctx-size"),
    "--threads": ("--threads-draft", "--threads"),
    "--batch-size": ("--batch-size",),
    "--ubatch-size": ("--ubatch-size",),
    "--cache-type-k": ("--cache-type-k-draft",),
    "--cache-type-v": ("--cache-type-v-draft",),
}
_KNOWN_FILES = 256


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes."""

    shared: int  # by all replicas
    each: int  # of one replica

    def of(self, num_replicas: int) -> int:
        return self.shared + num_replicas * self.each


def footprint(model: ModelConfig, *, forked: bool) -> Footprint:
    """What its workers will take here, by its file as it is now and by their flags. `forked`: from a nursery."""
    if model.path is None:  # its workers run elsewhere
        return Footprint(0, 0)
    flags, numbers = _flags(model), _numbers(model.path)
    weights = sum(size_on_disk(file) for file in {model.path, *_draft(flags)})
    loaded = LOADED_BYTES + numbers.get(VOCABULARY, 0) * TOKEN_BYTES
    each = OWN_BYTES + (worker_bytes(numbers, flags) if numbers else 0)
    each += sum(draft_bytes(_numbers(file), numbers, flags) for file in _draft(flags))
    if forked:
        return Footprint(weights + loaded, each)
    if "--no-mmap" in model.worker_arguments:
        return Footprint(0, weights + loaded + each)
    return Footprint(weights, loaded + each)


def _flags(model: ModelConfig) -> Mapping[str, str]:
    return dict(pairwise(model.worker_arguments))


def _draft(flags: Mapping[str, str]) -> Sequence[Path]:
    """The file of the small model, if one guesses."""
    file, types = flags.get("--model-draft"), flags.get("--spec-type", DRAFT_TYPE)
    guesses = DRAFT_TYPE in types.split(",") and flags.get("--spec-draft-n-max") != "0"
    return (Path(file),) if file and guesses else ()


def draft_bytes(numbers: Mapping[str, int], large: Mapping[str, int], flags: Mapping[str, str]) -> int:
    """What a worker computes with, for its small model, which has as much context as the large one if not told."""
    if not numbers:
        return 0
    told = {"--ctx-size": str(large.get("context_length", 0)), **flags}
    own = {flag: told[name] for flag, names in _SAID_BY.items() if (name := next(filter(told.get, names), None))}
    return worker_bytes(numbers, own | {"--parallel": str(NUM_DRAFTING)})


def worker_bytes(numbers: Mapping[str, int], flags: Mapping[str, str]) -> int:
    """What a worker computes with; the numbers are those of the file's head."""
    num_running = int(flags.get("--parallel", 0)) or NUM_RUNNING
    context = int(flags.get("--ctx-size", 0)) or numbers.get("context_length", 0)
    num_positions = (-(-context // BLOCK) + num_running) * BLOCK
    num_heads, width = numbers.get("attention.head_count", 0) or 1, numbers.get("embedding_length", 0)
    head_dim = numbers.get("attention.key_length", width // num_heads)
    num_values = numbers.get("block_count", 0) * numbers.get("attention.head_count_kv", num_heads) * head_dim
    types = (flags.get(f"--cache-type-{side}", "f16") for side in "kv")
    cache = num_positions * num_values * sum(CACHE_BYTES.get(name, CACHE_BYTES["f32"]) for name in types)
    rotations = 2 * num_positions * head_dim * 4
    logits = num_running * numbers.get(VOCABULARY, 0) * 4
    return int(cache) + rotations + logits + _step_bytes(numbers, flags, num_heads * head_dim)


def _step_bytes(numbers: Mapping[str, int], flags: Mapping[str, str], attention_width: int) -> int:
    """f32 of the hidden state, attention and gates; each thread has the inputs of a product as f32 and as codes."""
    num_tokens = min(int(flags.get(name, 0)) or most for name, most in BATCHES.items())
    num_rows = num_tokens * max(numbers.get("expert_used_count", 0), 1)
    num_threads = int(flags.get("--threads", 0)) or len(os.sched_getaffinity(0))
    width, dense = numbers.get("embedding_length", 0), numbers.get("feed_forward_length", 0)
    hidden = numbers.get("expert_feed_forward_length", dense)
    states = num_tokens * 2 * (width + attention_width) + num_rows * 2 * hidden
    return 4 * states + num_threads * num_rows * 5 * max(width, hidden, attention_width)


def _numbers(path: Path) -> Mapping[str, int]:
    try:
        told = path.stat()
    except OSError:
        return {}
    return _numbers_of(path, told.st_mtime_ns, told.st_size)


@lru_cache(_KNOWN_FILES)
def _numbers_of(path: Path, modified_ns: int, size: int) -> Mapping[str, int]:
    """Of a file as it was then."""
    return read_numbers(path)
