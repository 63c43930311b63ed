"""From a file to a model that can answer: read it, load tokenizer and weights, size the cache, start the engine.

worker/program.py calls `prepare`, which starts no thread, and then `start`, in the process that serves. Invariant:
whatever a user can cause raises a WorkerError or an OSError.
"""

import errno
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]

from worker import sampler
from worker.cache.prefix_store import PrefixStore
from worker.cache.slot_files import SlotFiles
from worker.config import WorkerConfig
from worker.context import Capacity
from worker.cores import atomic
from worker.cores.lease import CoreLease, Cores, LeaseUnusable, OwnCores
from worker.cores.numa import place
from worker.drafting.draft_load import SmallModel, load_draft
from worker.drafting.drafts import Alternatives, Drafter
from worker.drafting.lookup import LookupDrafter
from worker.engine import Engine
from worker.errors import ModelFileError, WorkerError
from worker.generation import Event, Sink
from worker.gguf import GGUF
from worker.identity import cache_identity, vocabulary_digest
from worker.model.architecture import architecture_name
from worker.model.decoder import BLOCK_SIZE, Decoder
from worker.model.load import load_model
from worker.prompt import PromptReader
from worker.rpc.loaded import LoadedModel, describe
from worker.text.chat_template import ChatTemplate
from worker.text.detokenizer import Detokenizer
from worker.text.tokenizer import Tokenizer

log = logging.getLogger("worker")

Progress = Callable[[str, float], None]  # stage, fraction done

_MAX_RUNNING = 16
_LARGE_STEP = 4096  # tokens: more makes no step better, and its buffers large
_GIB = 1 << 30


class TooLittleMemory(ModelFileError):
    """The cache for the context asked for does not fit this machine."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the workers of one configuration have in common; nothing of it changes any more."""

    tokenizer: Tokenizer
    prompts: PromptReader
    decoder: Decoder  # without cache and threads
    small: SmallModel | None  # that guesses for it
    describe: Callable[..., Any]  # service.describe, given all that is known of the file


def prepare(config: WorkerConfig, progress: Progress) -> Prepared:
    """Reads, packs and compiles. Raises ModelFileError, OSError."""
    progress("reading the file", 0.0)
    with GGUF.open(config.model_path) as gguf:
        architecture_name(gguf.metadata)  # of another one, the vocabulary is unknown, too
        tokenizer = Tokenizer(gguf.metadata)
        prompts = PromptReader(tokenizer, read_template(config, gguf.metadata, tokenizer))
        decoder = load_model(gguf, config, progress, (*sampler.KERNELS, *atomic.KERNELS))
        capacity = plan(config, decoder.context_length)
        small = load_draft(config.draft, config, capacity, gguf, progress) if config.draft else None
        facts = partial(
            describe,
            {key: value for key, value in gguf.metadata.items() if not isinstance(value, (list, np.ndarray))},
            prompts,
            model_path=str(config.model_path),
            num_parameters=decoder.num_parameters,
            size_bytes=gguf.size_bytes,
            trained_context_length=decoder.context_length,
            num_threads=decoder.num_threads,
            instruction_set=decoder.instruction_set,
            vocabulary=vocabulary_digest(gguf.metadata) if config.has_siblings else b"",
        )
    return Prepared(tokenizer, prompts, decoder, small, facts)


def read_template(config: WorkerConfig, metadata: Mapping[str, Any], tokenizer: Tokenizer) -> ChatTemplate:
    """The one that the command line gives, which must be good, else the model file's. Raises WorkerError, OSError."""
    given = config.chat_template
    if (file := config.chat_template_file) is not None:
        try:
            given = file.read_text("utf-8")
        except UnicodeDecodeError:
            raise WorkerError(f"--chat-template-file {file}: not UTF-8") from None
    template = ChatTemplate.from_metadata(metadata, tokenizer, given)
    if given and template.fault:
        raise WorkerError(f"--chat-template{f'-file {file}' if file else ''} cannot be used: {template.fault}")
    return template


def start(
    prepared: Prepared,
    config: WorkerConfig,
    post: Callable[[list[tuple[Sink, Event]]], None],
    on_death: Callable[[BaseException], None],
) -> LoadedModel:
    """Makes the cache and starts the engine; once for what was prepared. Raises ModelFileError, OSError."""
    decoder, tokenizer, small = prepared.decoder, prepared.tokenizer, prepared.small
    capacity = plan(config, decoder.context_length)
    warn_of_context(config, capacity, decoder.context_length)
    check_memory(decoder.block_bytes, capacity, small.cache_bytes if small else 0)
    reserve(decoder, capacity)
    identity = cache_identity(decoder) if config.kv_store or config.slot_save_path or config.has_siblings else b""
    store = PrefixStore(config.kv_store, identity, config.kv_store_mib << 20) if config.kv_store else None
    slot_files = SlotFiles(config.slot_save_path, identity) if config.slot_save_path else None
    cores = share_cores(config)
    drafter = make_drafter(small, cores, looks_up=config.looks_up)
    engine = Engine(decoder, capacity, tokenizer.eog_ids, post, on_death, store, cores, drafter)
    engine.start()
    if config.numa:
        place(config.numa, [engine.thread_id, *decoder.thread_ids, *(small.decoder.thread_ids if small else ())])
    description = prepared.describe(
        context_length=capacity.context_length,
        num_parallel=capacity.max_running,
        shifts_context=capacity.shifts_context,
        identity=identity,
        speculative=capacity.max_drafts > 0,
    )
    return LoadedModel(engine, prepared.prompts, partial(Detokenizer, tokenizer), description, slot_files)


def plan(config: WorkerConfig, trained: int) -> Capacity:
    """The cache holds the context asked for once, for all sequences together, and a last block for each of them."""
    num_positions = config.context_length or trained
    max_running = config.max_running or _MAX_RUNNING
    return Capacity(
        context_length=num_positions if config.rope.stretches else min(num_positions, trained),
        num_blocks=-(-num_positions // BLOCK_SIZE) + max_running,
        block_size=BLOCK_SIZE,
        max_running=max_running,
        max_waiting=config.max_waiting,
        step_tokens=max(config.step_tokens, max_running),
        max_drafts=config.max_drafts if config.looks_up or config.draft else 0,
        step_seconds=config.step_target_ms / 1000,
        shifts_context=config.context_shift,
    )


def warn_of_context(config: WorkerConfig, capacity: Capacity, trained: int) -> None:
    """Says what becomes of a context beyond the one the model was trained for."""
    if config.context_length <= trained:
        return
    if capacity.context_length > trained:
        log.warning(
            "--ctx-size %d goes beyond the %d positions the model was trained for, as far as rope scaling carries",
            config.context_length, trained,
        )  # fmt: skip
    else:
        log.warning(
            "a request gets %d of the %d positions of --ctx-size, what the model was trained for; --rope-scaling yarn "
            "--rope-scale %d makes room", trained, config.context_length, -(-config.context_length // trained),
        )  # fmt: skip


def share_cores(config: WorkerConfig) -> Cores:
    """The place among the workers that take turns. One that gets none still serves."""
    if config.core_lease is None:
        return OwnCores()
    try:
        return CoreLease(config.core_lease, config.core_weight)
    except (LeaseUnusable, OSError) as error:
        log.warning("the cores are not shared by turns, which costs speed beside other models: %s", error)
        return OwnCores()


def make_drafter(small: SmallModel | None, cores: Cores, *, looks_up: bool) -> Drafter:
    if small is None:
        return LookupDrafter()
    by_model = small.drafter(cores)
    return Alternatives(LookupDrafter(), by_model) if looks_up else by_model


def check_memory(block_bytes: int, capacity: Capacity, draft_bytes: int = 0) -> None:
    """Memory is given out when it is first touched: one too large would end the process in the middle of an answer.

    `draft_bytes`: what the cache of the model that guesses takes.
    """
    needed = capacity.num_blocks * block_bytes + draft_bytes
    available = psutil.virtual_memory().available
    if needed > available:
        num_positions = capacity.num_blocks * capacity.block_size
        beside = " with --model-draft" if draft_bytes else ""
        raise TooLittleMemory(
            f"a context of {num_positions} positions needs {needed / _GIB:.1f} GiB{beside}, "
            f"{available / _GIB:.1f} GiB are free; try {_fitting(capacity, available / 2 / needed)}"
        )


def _fitting(capacity: Capacity, share: float) -> str:
    """The flag that asks for most of the cache's blocks, with a value that leaves this share of them."""
    num_blocks, most = int(share * capacity.num_blocks), capacity.max_running
    if most > capacity.num_blocks // 2:
        return f"--parallel {max(num_blocks - (capacity.num_blocks - most), 1)}"
    return f"--ctx-size {max(num_blocks * capacity.block_size // 1024 * 1024, 1024)}"


def reserve(decoder: Decoder, capacity: Capacity) -> None:
    """Takes the memory for cache and steps and starts the threads. Raises TooLittleMemory, OSError."""
    try:
        decoder.reserve(capacity.num_blocks, capacity.step_tokens, capacity.max_running, capacity.max_logits)
    except (MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOMEM:
            raise
        num_positions = capacity.num_blocks * capacity.block_size
        raise TooLittleMemory(
            f"the system has no memory for a cache of {num_positions} positions and steps of {capacity.step_tokens} "
            f"tokens of up to {capacity.max_running} sequences; try a smaller {_largest(capacity)}"
        ) from None


def _largest(capacity: Capacity) -> str:
    """The flag that asks for more than is usual, with its value."""
    if capacity.max_running > _MAX_RUNNING:
        return f"--parallel than {capacity.max_running}"
    if capacity.step_tokens > _LARGE_STEP:
        return f"--ubatch-size than {capacity.step_tokens}"
    return "--ctx-size"
