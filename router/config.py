"""What the gateway is told, as frozen values. Made by settings.py, read by everyone, never changed.

What may differ between two of them while the gateway runs becomes a Table (table.py), which is swapped whole.
Invariant: a GatewayConfig that exists is valid: names are unique, files were there, addresses make sense.
"""

import enum
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080
DEFAULT_BODY_LIMIT = 16 * 1024 * 1024  # bytes
DEFAULT_LAME_DUCK = 1.0  # seconds
DEFAULT_DRAIN_TIMEOUT = 60.0  # seconds
LEAST_WEIGHT, MOST_WEIGHT = 0.01, 100.0  # of a model's share of the cores
DEFAULT_CORS_METHODS = "GET, POST, OPTIONS"
DEFAULT_CORS_HEADERS = "*"


LOAD_FIELDS = frozenset(
    {"path", "contents", "worker_arguments", "weight"}
)  # of a model: what its workers have read once


@dataclass(frozen=True, slots=True)
class WorkerTls:
    """TLS to workers on other hosts. Files are PEM."""

    ca: Path | None = None  # who signs their certificates; None: whom this host trusts
    cert: Path | None = None  # what the gateway shows, with `key`
    key: Path | None = None
    server_name: str | None = None  # in their certificates; None: the name or address they are reached by


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model, the names it answers to, and its workers: processes of this gateway, on other hosts, or both."""

    path: Path | None  # of the GGUF file; None: all its workers are on other hosts
    names: tuple[str, ...]  # the first is the model's own name, the others are further names for the same weights
    worker_arguments: tuple[str, ...] = ()
    replicas: int = 1
    pin: bool = False  # never unloaded to make room
    ttl: float | None = None  # seconds without a request after which it is unloaded; None: never
    weight: float = 1.0  # its share of the cores while several models compute
    load_on_start: bool = True
    workers: tuple[str, ...] = ()  # on other hosts, see addresses.py
    tls: WorkerTls | None = None  # to them; None: plain
    token_file: Path | None = None  # with what they ask for; None: the variable CORRAL_WORKER_TOKEN
    sampling: Mapping[str, Any] = field(default_factory=dict)  # for fields of api/samplers.py that a body lacks
    contents: tuple[object, ...] = ()  # of its files, as they were when this was read (fleet/modelfile.py)
    source: str = "preset"  # llama-server's word for where it stands: "models_dir" if only there

    @property
    def name(self) -> str:
        return self.names[0]

    def loads_like(self, other: "ModelConfig") -> bool:
        """Whether a worker that was started for one serves the other as well."""
        return all(getattr(self, name) == getattr(other, name) for name in LOAD_FIELDS)


class Reason(enum.StrEnum):
    """Why a request goes on to a fallback."""

    UNAVAILABLE = "unavailable"
    OVERLOADED = "overloaded"
    CONTEXT = "context"  # its prompt does not fit


@dataclass(frozen=True, slots=True)
class FallbackConfig:
    """A name to go on to, and for which reasons."""

    to: str
    on: frozenset[Reason] = frozenset(Reason)


@dataclass(frozen=True, slots=True)
class ShadowConfig:
    """A name that gets a copy of a fraction of the requests; its answers are compared and thrown away."""

    to: str
    fraction: float = 1.0


@dataclass(frozen=True, slots=True)
class AliasConfig:
    """A name that is a traffic policy over models."""

    name: str
    targets: tuple[tuple[str, float], ...]  # (model, weight above 0)
    defaults: Mapping[str, Any] = field(default_factory=dict)  # fields of a body, where the client gives none
    forced: Mapping[str, Any] = field(default_factory=dict)  # fields of a body, whatever the client gives
    fallbacks: tuple[FallbackConfig, ...] = ()
    shadow: ShadowConfig | None = None
    hidden: bool = False  # answers, but is not listed
    balance: str | None = None  # one of BALANCING; None: as [balance] says
    where: str = field(default="", compare=False)  # its place in a file


class Scope(enum.StrEnum):
    """What a key may be used for."""

    INFER = "infer"
    ADMIN = "admin"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """One tenant: a key, its rights and its limits. None: no limit."""

    name: str
    digest: bytes  # sha256 of the key
    models: tuple[str, ...] = ("*",)  # patterns of the names it may ask for
    scopes: frozenset[Scope] = frozenset({Scope.INFER})
    expires: datetime | None = None  # with a time zone
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None  # requests at the same time
    weight: float = 1.0  # share of a busy model
    priority: int = 0  # higher goes first, whatever the weights


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """How requests wait in front of a model. Times are in seconds."""

    queue: int = 512  # requests that may wait in front of one model
    queue_timeout: float = 600.0
    in_flight: int = 0  # requests handed to one model at once; 0: what it computes at once, and one more
    assumed_answer: int = 256  # tokens that are reserved for an answer without a limit of its own


BALANCING = ("least-tokens", "prefix", "two-choices", "session", "round-robin")


@dataclass(frozen=True, slots=True)
class BalanceConfig:
    """How a replica is chosen."""

    policy: str = BALANCING[0]
    session_header: str = "x-session-id"


@dataclass(frozen=True, slots=True)
class CorsConfig:
    """Which web pages of other origins may call the gateway. No origins: none."""

    origins: tuple[str, ...] = ()  # "*" stands for all, "localhost" for any of this machine
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
    nursery: bool = True  # whether workers are forked from a process that has loaded the model, where that can be
    first_delay: float = 0.5  # before a restart; doubles with every crash in a row
    longest_delay: float = 30.0
    jitter: float = 0.25  # of the delay, either way
    healthy_after: float = 60.0  # a life this long makes earlier crashes forgotten, and the next one begins at once
    max_crashes: int = 5  # more than this many within crash_window: failed
    crash_window: float = 120.0
    recovery_wait: float = 10.0  # a request waits this long for a model that was ready and crashed
    stop_grace: float = 5.0  # between SIGTERM and SIGKILL
    probe_interval: float = 1.0  # between two questions whether a worker lives
    probe_timeout: float = 1.0  # for the answer
    probes: int = 3  # without an answer or a sign of work in a row: hung
    step_deadline: float = 10.0  # without a step or an answer while it is at work: hung; more for slow steps
    connect_timeout: float = 5.0  # for a worker on another host to answer at all
    longest_reconnect: float = 5.0  # between two attempts to reach one
    resolve_interval: float = 5.0  # between two looks at the addresses of a name
    core_lease: CoreLease = CoreLease.AUTO


@dataclass(frozen=True, slots=True)
class ResidencyConfig:
    """Which models may be in memory at the same time."""

    max_models: int = 0  # 0: any number
    memory: int = 0  # bytes that they may take together; 0: no limit
    turn: float = 30.0  # seconds that a busy model keeps its place once another one waits for it
    autoload: bool = True  # whether a request loads the model it is for


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
    aliases: tuple[AliasConfig, ...] = ()
    keys: tuple[KeyConfig, ...] = ()  # none: no key is asked for, unless it is locked
    locked: bool = False  # a file of keys is named: it may be empty, and then nobody may call
    limits: LimitsConfig = LimitsConfig()
    balance: BalanceConfig = BalanceConfig()
    allowed_hosts: tuple[str, ...] | None = None  # names a Host header may have beside addresses; None: any
    cors: CorsConfig = CorsConfig()
    supervision: SupervisionConfig = SupervisionConfig()
    residency: ResidencyConfig = ResidencyConfig()
    log: LogConfig = LogConfig()
    tls: TlsConfig | None = None
    metrics: bool = False  # whether GET /metrics answers
    slots: bool = True  # whether GET /slots answers
    body_limit: int = DEFAULT_BODY_LIMIT
    lame_duck: float = DEFAULT_LAME_DUCK  # seconds between /ready turning 503 and the closing of the port
    drain_timeout: float = DEFAULT_DRAIN_TIMEOUT  # seconds that open requests get to finish
    listen_when_ready: bool = False  # else at once, to answer that the models are loading
    redis: str | None = None  # URL of the Redis that keeps the keys' limits for several gateways
    otlp: str | None = None  # URL of the collector that gets traces of requests
    files: tuple[Path, ...] = ()  # that say all this, and folders of models
    watch: bool = True  # whether a change of them is taken into force
    notes: tuple[str, ...] = ()  # flags that were understood but do nothing here, one line each

    @property
    def asks_for_keys(self) -> bool:
        """Whether nobody may call without a key."""
        return self.locked or bool(self.keys)
