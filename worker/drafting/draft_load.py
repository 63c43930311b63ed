"""The small model that guesses for a large one: loaded beside it, with a cache and threads of its own.

startup.py calls `load_draft`. Invariant: both models mean the same text by every token.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from worker.config import DraftConfig, RopeConfig, WorkerConfig
from worker.context import Capacity
from worker.cores.lease import Cores
from worker.drafting.draft_model import DraftLimits, ModelDrafter
from worker.drafting.drafts import MOST_DRAFTING, VERIFICATION
from worker.errors import ModelFileError
from worker.gguf import GGUF
from worker.metadata import TOKENIZER, Entries
from worker.model.decoder import BLOCK_SIZE, Decoder
from worker.model.load import load_model

log = logging.getLogger("worker")

Progress = Callable[[str, float], None]  # stage, fraction done


class OtherVocabulary(ModelFileError):
    """The small model's tokens are not those of the large one."""


@dataclass(frozen=True, slots=True)
class SmallModel:
    """A small model that is loaded, and what it may do."""

    decoder: Decoder
    limits: DraftLimits
    price: float  # of its step, in steps of the large model

    @property
    def cache_bytes(self) -> int:
        return self.limits.num_blocks * self.decoder.block_bytes

    def drafter(self, cores: Cores) -> ModelDrafter:
        """Takes the memory for cache and buffers and starts the threads."""
        limits = self.limits
        self.decoder.reserve(limits.num_blocks, limits.step_tokens, limits.max_sequences)
        return ModelDrafter(self.decoder, limits, self.price, cores)


def load_draft(
    draft: DraftConfig, config: WorkerConfig, capacity: Capacity, large: GGUF, progress: Progress
) -> SmallModel:
    """`large`, still open, and `config` are the other model's. Raises OtherVocabulary, ModelFileError, OSError."""
    with GGUF.open(draft.model_path) as gguf:
        check_vocabulary(large, gguf)
        decoder = load_model(gguf, _as_worker(draft, config), progress)
        price = gguf.size_bytes / large.size_bytes  # both are read from memory once per step
    if price + VERIFICATION >= 1:
        log.warning(
            "--model-draft %s has %.0f %% of the model's size: its guesses cost more than they can save",
            draft.model_path, 100 * price,
        )  # fmt: skip
    return SmallModel(decoder, _limits(draft, capacity, decoder.context_length), price)


def _as_worker(draft: DraftConfig, config: WorkerConfig) -> WorkerConfig:
    """What a worker of the small model would be told."""
    return replace(
        config,
        model_path=draft.model_path,
        context_length=draft.context_length,
        num_threads=draft.num_threads or config.num_threads,
        num_batch_threads=draft.num_batch_threads or config.num_batch_threads,
        kv_type_k=draft.kv_type_k,
        kv_type_v=draft.kv_type_v,
        rope=RopeConfig(),
    )


def _limits(draft: DraftConfig, capacity: Capacity, trained: int) -> DraftLimits:
    num_positions = draft.context_length or capacity.context_length
    return DraftLimits(
        context_length=min(num_positions, trained),
        num_blocks=-(-num_positions // BLOCK_SIZE) + MOST_DRAFTING,
        block_size=BLOCK_SIZE,
        max_sequences=MOST_DRAFTING,
        step_tokens=max(capacity.step_tokens, MOST_DRAFTING),
        step_seconds=capacity.step_seconds,
        fewest=draft.fewest,
        least_probability=draft.least_probability,
    )


def check_vocabulary(large: GGUF, small: GGUF) -> None:
    """Raises OtherVocabulary, which names what differs first."""
    problem = _difference(_tokens(large), _tokens(small)) or _difference_of_rows(large, small)
    if problem:
        raise OtherVocabulary(f"--model-draft {small.path}: {problem}; it must have the vocabulary of {large.path}")


def _tokens(gguf: GGUF) -> list[bytes]:
    return Entries(gguf.metadata, TOKENIZER).texts("tokens")


def _difference(large: list[bytes], small: list[bytes]) -> str:
    if len(large) != len(small):
        return f"its vocabulary has {len(small)} tokens, not {len(large)}"
    for token, (text, other) in enumerate(zip(large, small, strict=True)):
        if text != other:
            return f"its token {token} is {other.decode(errors='replace')!r}, not {text.decode(errors='replace')!r}"
    return ""


def _difference_of_rows(large: GGUF, small: GGUF) -> str:
    """A matrix of embeddings may have more rows than there are tokens."""
    rows = [gguf.tensors["token_embd.weight"].shape[0] for gguf in (large, small) if gguf.tensors]
    return f"its logits are for {rows[1]} tokens, not {rows[0]}" if rows[0] != rows[1] else ""
