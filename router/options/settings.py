"""From given flags and files to a GatewayConfig: values are checked, models named, keys read.

Called by serve.py and configfile/command.py. Invariant: whatever is wrong is said in one line that names the flag, or
the file and the line, before anything is started.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from router.config import (
    DEFAULT_BODY_LIMIT,
    DEFAULT_CORS_HEADERS,
    DEFAULT_CORS_METHODS,
    DEFAULT_DRAIN_TIMEOUT,
    DEFAULT_HOST,
    DEFAULT_LAME_DUCK,
    DEFAULT_PORT,
    LEAST_WEIGHT,
    MOST_WEIGHT,
    CoreLease,
    CorsConfig,
    GatewayConfig,
    LogConfig,
    ModelConfig,
    ResidencyConfig,
    SupervisionConfig,
    TlsConfig,
)
from router.configfile.problems import Problems
from router.configfile.reading import FileConfig
from router.errors import CommandError
from router.fleet.memory import usable_bytes
from router.options import workersettings
from router.options.flags import EXIT_USAGE, Given, parts
from router.options.keyset import all_keys
from router.options.modelset import OwnFlags, assemble
from router.options.samplingflags import sampling_defaults
from router.policy.aliases import AliasError, AliasTable
from router.secretfile import read_secret

NO_FILE = FileConfig()
UNIX_SUFFIX = ".sock"
_LEVELS = ("ERROR", "ERROR", "WARNING", "INFO", "DEBUG")
SILENT = "CRITICAL"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SHARE_OF_MEMORY = 0.9  # that models may take if nobody says more or less


def gateway_config(given: Given, fetched: Sequence[Path] = (), file: FileConfig = NO_FILE) -> GatewayConfig:
    """The configuration; `fetched` are models beyond those of -m. Raises CommandError, ConfigError."""
    server = given.filled(file.server)
    models = assemble(
        [*server.paths("model"), *fetched],
        server.values.get("alias", ()),
        file.models,
        lambda layer: _own_flags(given.filled(layer).filled(file.server)),
    )
    if not models:
        raise CommandError(_no_model(server.last("models_dir")), EXIT_USAGE)
    models = _weighted(models, server.values.get("core_weight", ()))
    models = _idle(models, server)
    _check_aliases(models, file)
    return _gateway(server, file, models)


def _no_model(folder: str | None) -> str:
    where = f" in --models-dir {folder} or its folders" if folder else ""
    return f"no model{where}: give one with -m FILE (`corral pull smollm2` fetches a small one)"


def _own_flags(given: Given) -> OwnFlags:
    return OwnFlags(workersettings.worker_arguments(given), sampling_defaults(given))


def _gateway(given: Given, file: FileConfig, models: tuple[ModelConfig, ...]) -> GatewayConfig:
    cors, cors_notes = _cors(given)
    config = GatewayConfig(
        models=models,
        hosts=tuple(parts(given.last("host") or DEFAULT_HOST)),
        port=_integer(given, "port", DEFAULT_PORT, 0, 65535),
        aliases=file.aliases,
        keys=all_keys(given, file.keys),
        locked=bool(given.last("keys") or file.keys_file),
        limits=file.limits,
        balance=file.balance,
        cors=cors,
        supervision=_supervision(given),
        residency=_residency(given),
        log=_log(given),
        tls=_tls(given),
        metrics=given.on("metrics"),
        slots=given.on("slots", True),
        body_limit=_integer(given, "body_limit", DEFAULT_BODY_LIMIT, 1, 1 << 40),
        lame_duck=_seconds(given, "lame_duck", DEFAULT_LAME_DUCK),
        drain_timeout=_seconds(given, "drain_timeout", DEFAULT_DRAIN_TIMEOUT),
        listen_when_ready=given.on("listen_when_ready"),
        redis=given.last("redis"),
        otlp=given.last("otlp"),
        files=_files(given, file),
        watch=given.on("watch", True),
        notes=(*_file_notes(file), *given.notes(), *cors_notes, *workersettings.notes(given)),
    )
    _check_exposure(config, given.on("insecure_no_auth"))
    return replace(config, allowed_hosts=_allowed_hosts(given, config))


def _check_aliases(models: Sequence[ModelConfig], file: FileConfig) -> None:
    """Raises ConfigError with every alias that makes no sense."""
    try:
        AliasTable(models, file.aliases)
    except ExceptionGroup as group:
        problems = file.problems or Problems(Path(), {})
        for error in group.exceptions:
            assert isinstance(error, AliasError)
            path = ("aliases", error.alias, error.part) if error.part else ("aliases", error.alias)
            problems.add(path, error.message, error.nearest)
        problems.check()


def _weighted(models: Sequence[ModelConfig], settings: Sequence[str]) -> tuple[ModelConfig, ...]:
    """The models with the shares of the cores that --core-weight gives them."""
    owners = {name: model.name for model in models for name in model.names}
    found: dict[str, float] = {}
    for setting in settings:
        name, _, text = setting.rpartition("=")
        if name not in owners:
            raise CommandError(f"--core-weight {setting}: NAME=WEIGHT is needed, with the name of a model", EXIT_USAGE)
        found[owners[name]] = _weight(text)
    return tuple(replace(model, weight=found.get(model.name, model.weight)) for model in models)


def _idle(models: Sequence[ModelConfig], given: Given) -> tuple[ModelConfig, ...]:
    """The models with --sleep-idle-seconds where they have no time of their own."""
    ttl = _integer(given, "sleep_idle_seconds", -1, -1, 1 << 30)
    if ttl < 0:
        return tuple(models)
    return tuple(replace(model, ttl=float(ttl)) if model.ttl is None else model for model in models)


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise CommandError(
            f"--core-weight must be between {LEAST_WEIGHT:g} and {MOST_WEIGHT:g}, but is '{text}'", EXIT_USAGE
        )
    return weight


def _files(given: Given, file: FileConfig) -> tuple[Path, ...]:
    named = [given.path(key) for key in ("keys", "models_preset", "models_dir")]
    read = [each for each in (file.path, file.keys_file, *named) if each is not None]
    return (*read, *given.paths("api_key_file"))


def _file_notes(file: FileConfig) -> list[str]:
    """Which file was read, and what in it does nothing here."""
    notes = [f"configuration: {file.path}"] if file.path else []
    for entry in file.models:
        notes += Given().filled(entry.worker).notes()
    return list(dict.fromkeys(notes))


# ---- the gateway ------------------------------------------------------------------------------


def _check_exposure(config: GatewayConfig, allowed: bool) -> None:
    if config.asks_for_keys or allowed:
        return
    exposed = [host for host in config.hosts if not _is_local(host)]
    if exposed:
        raise CommandError(
            f"--host {exposed[0]} lets other machines call without a key; "
            "give --api-key-file FILE, or --insecure-no-auth if that is meant",
            EXIT_USAGE,
        )


def _allowed_hosts(given: Given, config: GatewayConfig) -> tuple[str, ...] | None:
    """Names a Host header may have; any, where a key protects what a strange page could reach."""
    named = tuple(given.listed("allowed_hosts"))
    if named or not (config.asks_for_keys or any(not _is_local(host) for host in config.hosts)):
        return named
    return None


def _is_local(host: str) -> bool:
    if host.endswith(UNIX_SUFFIX) or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _cors(given: Given) -> tuple[CorsConfig, list[str]]:
    listed = [origin.rstrip("/") for origin in given.listed("cors_origins")]
    config = CorsConfig(
        origins=tuple(listed) if listed else ("*",) if given.on("cors") else (),
        methods=given.last("cors_methods") or DEFAULT_CORS_METHODS,
        headers=given.last("cors_headers") or DEFAULT_CORS_HEADERS,
        credentials=given.on("cors_credentials"),
    )
    if config.credentials and (config.any_origin or not listed):
        note = "no effect: --cors-credentials (it needs --cors-origins with a list of origins)"
        return replace(config, credentials=False), [note]
    return config, []


def _supervision(given: Given) -> SupervisionConfig:
    command, lease = given.last("worker_command"), given.last("core_lease") or CoreLease.AUTO
    if lease not in tuple(CoreLease):
        raise CommandError(f"--core-lease must be auto, on or off, but is '{lease}'", EXIT_USAGE)
    config = SupervisionConfig(core_lease=CoreLease(lease))
    return replace(config, worker_command=tuple(shlex.split(command)), nursery=False) if command else config


def _residency(given: Given) -> ResidencyConfig:
    return ResidencyConfig(
        max_models=_integer(given, "models_max", 0, 0, 1 << 20),
        memory=_size(given, "models_memory", int(usable_bytes() * _SHARE_OF_MEMORY)),
        autoload=given.on("models_autoload", True),
    )


def _log(given: Given) -> LogConfig:
    level = "DEBUG" if given.on("verbose") else _LEVELS[_integer(given, "verbosity", 3, 0, 100, ceiling=4)]
    form = given.last("log_format") or "text"
    if form not in ("text", "json"):
        raise CommandError(f"--log-format must be text or json, but is '{form}'", EXIT_USAGE)
    return LogConfig(
        level=SILENT if given.on("log_disable") else level,
        json=form == "json" or given.on("log_jsonl"),
        file=given.path("log_file"),
    )


def _tls(given: Given) -> TlsConfig | None:
    key, cert = given.path("ssl_key_file"), given.path("ssl_cert_file")
    if not key and not cert:
        return None
    if not (key and cert):
        raise CommandError("--ssl-key-file and --ssl-cert-file go together", EXIT_USAGE)
    tls = TlsConfig(key, cert)
    for flag, read, file in (("key", read_secret, tls.key_file), ("cert", Path.read_bytes, tls.cert_file)):
        try:
            read(file)
        except OSError as error:
            raise CommandError(f"cannot read --ssl-{flag}-file {file}: {error.strerror}", EXIT_USAGE) from None
    return tls


# ---- values -----------------------------------------------------------------------------------


def _integer(given: Given, key: str, default: int, least: int, most: int, ceiling: int | None = None) -> int:
    text = given.last(key)
    if text is None:
        return default
    flag = given.called(key)
    try:
        value = int(text)
    except ValueError:
        raise CommandError(f"{flag} must be a whole number, but is '{text}'", EXIT_USAGE) from None
    if not least <= value <= most:
        raise CommandError(f"{flag} must be between {least} and {most}, but is {value}", EXIT_USAGE)
    return value if ceiling is None else min(value, ceiling)


def _seconds(given: Given, key: str, default: float) -> float:
    text = given.last(key)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise CommandError(f"{given.called(key)} must be a number of seconds, but is '{text}'", EXIT_USAGE)
    return value


def _size(given: Given, key: str, default: int) -> int:
    """Bytes, as "800M" or "1.5 GiB"; the letters count in 1024s."""
    text = given.last(key)
    if text is None:
        return default
    found = _SIZE.fullmatch(text.replace(" ", ""))
    if found is None:
        raise CommandError(f"{given.called(key)} must be a size such as 800M or 12G, but is '{text}'", EXIT_USAGE)
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))
