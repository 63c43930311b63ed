"""What a worker is told at start. Made once by worker/program.py, checked there, never changed."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """What replaces the model file's rotary embedding. Whatever is None stays as the file has it."""

    scaling: str | None = None  # none, linear or yarn
    base: float | None = None
    scale: float | None = None  # of the angles: 1 / 4 makes room for four times the context
    original_context: int | None = None  # positions the model was trained for, as YaRN's ramp wants to know
    extrapolation: float | None = None  # YaRN's mix: 0 interpolates all frequencies, 1 leaves the high ones alone
    attention_factor: float | None = None  # of cosines and sines, where nothing is extrapolated
    beta_fast: float | None = None
    beta_slow: float | None = None

    @property
    def stretches(self) -> bool:
        """Whether positions beyond those the model was trained for are meant to work."""
        return self.scale is not None or self.base is not None


@dataclass(frozen=True, slots=True)
class DraftConfig:
    """A small model that guesses tokens for the large one."""

    model_path: Path
    context_length: int = 0  # longer sequences are not guessed; 0: as long as the large model's
    num_threads: int = 0  # 0: as many as the large model's
    num_batch_threads: int = 0
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    fewest: int = 0  # guesses; where there are fewer, none is tried
    least_probability: float = 0.0  # of a guess, by the small model


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Settings of one worker process."""

    model_path: Path
    listen: str  # "unix:PATH" or "HOST:PORT"
    context_length: int = 0  # positions shared by all running sequences; 0: the length the model was trained for
    num_threads: int = 0  # in steps that only generate; 0: one per usable core
    num_batch_threads: int = 0  # in steps that read prompts; 0: as many as num_threads
    max_running: int = 0  # sequences computed at once; 0: chosen by the worker
    max_waiting: int = 512  # requests in line before new ones are refused
    step_tokens: int = 512  # prompt and output tokens computed in one step, at most
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    rope: RopeConfig = field(default_factory=RopeConfig)
    maps_weights: bool = True  # False: they are read into memory of the worker's own
    locks_weights: bool = False  # in memory, so that they are never swapped or dropped
    checks_tensors: bool = False
    numa: str = ""  # distribute, isolate or numactl: see worker/cores/numa.py
    core_lease: Path | None = None  # a file shared by workers that take turns on the cores; None: no turns
    core_weight: float = 1.0  # share of the cores, relative to the others'
    step_target_ms: int = 50  # what a step that reads prompts should take, at most
    max_drafts: int = 3  # tokens guessed and computed together with the one before them; 0: none
    looks_up: bool = True  # guesses by lookup in the text
    draft: DraftConfig | None = None  # guesses by a model
    context_shift: bool = False  # a full context is shifted, not the end of the answer
    chat_template: str = ""  # instead of the model file's
    chat_template_file: Path | None = None  # the same, before it
    slot_save_path: Path | None = None  # where clients may save computed prefixes
    kv_store: Path | None = None  # where computed prefixes outlive the process
    kv_store_mib: int = 4096  # that it may take

    @property
    def has_siblings(self) -> bool:
        """Whether callers may take it for one of several on different hosts, which have to compute the same."""
        return not self.listen.startswith("unix:")
