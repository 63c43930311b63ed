"""What a worker is told at start. Made once by worker/__main__.py, checked there, never changed."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Settings of one worker process."""

    model_path: Path
    listen: str  # "unix:PATH" or "HOST:PORT"
    context_length: int = 0  # positions shared by all running sequences; 0: the length the model was trained for
    num_threads: int = 0  # 0: one per usable core
    max_running: int = 0  # sequences computed at once; 0: chosen by the worker
    max_waiting: int = 512  # requests in line before new ones are refused
    step_tokens: int = 512  # prompt and output tokens computed in one step, at most
    kv_type: str = "f16"
    core_lease: Path | None = None  # a file shared by workers that take turns on the cores; None: no turns
    core_weight: float = 1.0  # share of the cores, relative to the others'
