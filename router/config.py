"""What the gateway is told at start, as frozen values. Made by settings.py, read by everyone, never changed.

Invariant: a GatewayConfig that exists is valid: names are unique, files were there, addresses make sense.
"""

import enum
import sys
from dataclasses import dataclass
from pathlib import Path

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080
DEFAULT_BODY_LIMIT = 16 * 1024 * 1024  # bytes
DEFAULT_LAME_DUCK = 1.0  # seconds
DEFAULT_DRAIN_TIMEOUT = 60.0  # seconds
DEFAULT_CORS_METHODS = "GET, POST, OPTIONS"
DEFAULT_CORS_HEADERS = "*"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One GGUF file and the names it answers to."""

    path: Path
    names: tuple[str, ...]  # the first is the model's own name, the others are further aliases
    worker_arguments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.names[0]


@dataclass(frozen=True, slots=True)
class CorsConfig:
    """Which web pages of other origins may call the gateway. No origins: none."""

    origins: tuple[str, ...] = ()  # "*" stands for all
    methods: str = DEFAULT_CORS_METHODS
    headers: str = DEFAULT_CORS_HEADERS
    credentials: bool = False

    @property
    def any_origin(self) -> bool:
        return "*" in self.origins


class CoreLease(enum.StrEnum):
    """With whom a worker takes turns on the cores."""

    AUTO = "auto"  # the other workers of this gateway
    ON = "on"  # all workers of this user on this host
    OFF = "off"  # nobody


@dataclass(frozen=True, slots=True)
class SupervisionConfig:
    """How workers are started, watched and stopped. Times are in seconds."""

    worker_command: tuple[str, ...] = (sys.executable, "-P", "-m", "worker")
    first_delay: float = 0.5  # before the first restart; doubles with every crash in a row
    longest_delay: float = 30.0
    jitter: float = 0.25  # of the delay, either way
    healthy_after: float = 60.0  # a life this long makes earlier crashes forgotten
    max_crashes: int = 5  # more than this many within crash_window: failed
    crash_window: float = 120.0
    recovery_wait: float = 10.0  # a request waits this long for a model that was ready and crashed
    stop_grace: float = 5.0  # between SIGTERM and SIGKILL
    core_lease: CoreLease = CoreLease.AUTO


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Where the log goes and how much of it."""

    level: str = "INFO"
    json: bool = False
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """For https."""

    key_file: Path
    cert_file: Path


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Everything `corral serve` was told."""

    models: tuple[ModelConfig, ...]
    hosts: tuple[str, ...] = (DEFAULT_HOST,)  # addresses, or paths ending in .sock
    port: int = DEFAULT_PORT
    key_digests: frozenset[bytes] = frozenset()  # sha256 of every valid key; none: no key is asked for
    cors: CorsConfig = CorsConfig()
    supervision: SupervisionConfig = SupervisionConfig()
    log: LogConfig = LogConfig()
    tls: TlsConfig | None = None
    metrics: bool = False  # whether GET /metrics answers
    slots: bool = True  # whether GET /slots answers
    body_limit: int = DEFAULT_BODY_LIMIT
    lame_duck: float = DEFAULT_LAME_DUCK  # seconds between /ready turning 503 and the closing of the port
    drain_timeout: float = DEFAULT_DRAIN_TIMEOUT  # seconds that open requests get to finish
    notes: tuple[str, ...] = ()  # flags that were understood but do nothing here, one line each
