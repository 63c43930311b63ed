"""From given flags to a GatewayConfig: values are checked, models named, keys read.

Called by serve.py. Invariant: whatever is wrong is said in one line that names the flag, before anything is started.
"""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from router.auth import key_digest
from router.config import (
    DEFAULT_BODY_LIMIT,
    DEFAULT_CORS_HEADERS,
    DEFAULT_CORS_METHODS,
    DEFAULT_DRAIN_TIMEOUT,
    DEFAULT_HOST,
    DEFAULT_LAME_DUCK,
    DEFAULT_PORT,
    CoreLease,
    CorsConfig,
    GatewayConfig,
    LogConfig,
    ModelConfig,
    SupervisionConfig,
    TlsConfig,
)
from router.errors import CommandError
from router.flags import EXIT_USAGE, Given

UNIX_SUFFIX = ".sock"
_LEVELS = ("ERROR", "ERROR", "WARNING", "INFO", "DEBUG")
SILENT = "CRITICAL"

# Settings that are handed on, and what the worker calls them. 0 and -1 leave the choice to the worker.
_WORKER_FLAGS = (
    ("threads", "--threads"),
    ("ctx_size", "--ctx-size"),
    ("parallel", "--parallel"),
    ("batch_size", "--batch-size"),
)
_MAX_WORKER_NUMBER = (1 << 24) - 1
_LEAST_WEIGHT, _MOST_WEIGHT = 0.01, 100.0
_CACHE_TYPES = ("f16", "f32", "q8_0")


def gateway_config(given: Given, fetched: Sequence[Path] = ()) -> GatewayConfig:
    """The configuration; `fetched` are models beyond those of -m. Raises CommandError."""
    models = _models([*map(Path, given.values.get("model", ())), *fetched], given.values.get("alias", ()))
    arguments, weights = _worker_arguments(given), _core_weights(models, given.values.get("core_weight", ()))
    cors, cors_notes = _cors(given)
    config = GatewayConfig(
        models=tuple(replace(model, worker_arguments=(*arguments, *weights.get(model.name, ()))) for model in models),
        hosts=tuple(_list(given.last("host") or DEFAULT_HOST)),
        port=_integer(given, "port", DEFAULT_PORT, 0, 65535),
        key_digests=_key_digests(given),
        cors=cors,
        supervision=_supervision(given),
        log=_log(given),
        tls=_tls(given),
        metrics=given.on("metrics"),
        slots=given.on("slots", True),
        body_limit=_integer(given, "body_limit", DEFAULT_BODY_LIMIT, 1, 1 << 40),
        lame_duck=_seconds(given, "lame_duck", DEFAULT_LAME_DUCK),
        drain_timeout=_seconds(given, "drain_timeout", DEFAULT_DRAIN_TIMEOUT),
        notes=(*given.notes(), *cors_notes, *_cache_notes(given)),
    )
    _check_exposure(config, given.on("insecure_no_auth"))
    return config


# ---- models -----------------------------------------------------------------------------------


def _models(paths: Sequence[Path], aliases: Sequence[str]) -> list[ModelConfig]:
    """Each file once, with its aliases in the order given, else with its stem for a name."""
    files: dict[Path, list[str]] = {_absolute(path): [] for path in paths}
    for name, file in _alias_pairs(aliases, list(files)):
        files.setdefault(file, []).append(name)
    if not files:
        raise CommandError("no model: give one with -m FILE (`corral pull smollm2` fetches a small one)", EXIT_USAGE)
    for file in files:
        _check_readable(file)
    models = [ModelConfig(file, tuple(dict.fromkeys(names)) or (file.stem,)) for file, names in files.items()]
    _check_unique(models)
    return models


def _alias_pairs(aliases: Sequence[str], files: Sequence[Path]) -> list[tuple[str, Path]]:
    """(name, file) of every --alias, in both of its forms."""
    pairs = []
    for alias in aliases:
        name, joined, file = alias.partition("=")
        if joined and not (name and file):
            raise CommandError(f"--alias {alias}: NAME=FILE is what is needed", EXIT_USAGE)
        if joined:
            pairs.append((name, _named_file(file, files)))
        elif len(files) == 1:
            pairs += [(part, files[0]) for part in _list(alias)]
        else:
            raise CommandError(f"--alias {alias}: with several models say which, as {alias}=FILE", EXIT_USAGE)
    return pairs


def _named_file(file: str, files: Sequence[Path]) -> Path:
    """The model an alias means: a base name of a given one, or a path."""
    by_base_name = [known for known in files if known.name == file]
    if len(by_base_name) > 1:
        raise CommandError(f"--alias ...={file}: two models have that name; give the whole path", EXIT_USAGE)
    return by_base_name[0] if by_base_name else _absolute(Path(file))


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _check_readable(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            opened.read(1)
    except OSError as error:
        raise CommandError(f"cannot read model {file}: {error.strerror}", EXIT_USAGE) from None


def _check_unique(models: Sequence[ModelConfig]) -> None:
    owners: dict[str, Path] = {}
    for model in models:
        for name in model.names:
            other = owners.setdefault(name, model.path)
            if other != model.path:
                raise CommandError(
                    f"two models are called '{name}': {other} and {model.path}; name one with --alias NAME=FILE",
                    EXIT_USAGE,
                )


def _core_weights(models: Sequence[ModelConfig], settings: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """By model name: the worker's arguments that --core-weight asks for."""
    owners = {name: model.name for model in models for name in model.names}
    found: dict[str, tuple[str, ...]] = {}
    for setting in settings:
        name, _, text = setting.rpartition("=")
        if name not in owners:
            raise CommandError(f"--core-weight {setting}: NAME=WEIGHT is needed, with the name of a model", EXIT_USAGE)
        found[owners[name]] = ("--core-weight", str(_weight(text)))
    return found


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not _LEAST_WEIGHT <= weight <= _MOST_WEIGHT:
        raise CommandError(
            f"--core-weight must be between {_LEAST_WEIGHT:g} and {_MOST_WEIGHT:g}, but is '{text}'", EXIT_USAGE
        )
    return weight


def _worker_arguments(given: Given) -> tuple[str, ...]:
    arguments: list[str] = []
    for key, name in _WORKER_FLAGS:
        value = _integer(given, key, 0, -1, _MAX_WORKER_NUMBER)
        if value > 0:
            arguments += [name, str(value)]
    kv_type = _cache_type(given)
    return (*arguments, "--cache-type", kv_type) if kv_type in _CACHE_TYPES else tuple(arguments)


def _cache_type(given: Given) -> str | None:
    return "f32" if given.on("memory_f32") else given.last("cache_type_k") or given.last("cache_type_v")


def _cache_notes(given: Given) -> list[str]:
    kv_type = _cache_type(given)
    if kv_type is None or kv_type in _CACHE_TYPES:
        return []
    return [f"no effect: --cache-type-k {kv_type} (a worker knows {', '.join(_CACHE_TYPES)})"]


# ---- the gateway ------------------------------------------------------------------------------


def _key_digests(given: Given) -> frozenset[bytes]:
    keys = [key for value in given.values.get("api_key", ()) for key in _list(value)]
    for name in given.values.get("api_key_file", ()):
        found = _keys_in(Path(name).expanduser())
        if not found:
            raise CommandError(f"--api-key-file {name}: no key in it", EXIT_USAGE)
        keys += found
    if not keys and ("api_key" in given.values):
        raise CommandError("--api-key is empty", EXIT_USAGE)
    return frozenset(key_digest(key.encode("utf-8", "surrogateescape")) for key in keys)


def _keys_in(file: Path) -> list[str]:
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise CommandError(f"cannot read --api-key-file {file}: {error.strerror}", EXIT_USAGE) from None
    except UnicodeDecodeError:
        raise CommandError(f"--api-key-file {file}: not UTF-8", EXIT_USAGE) from None
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _check_exposure(config: GatewayConfig, allowed: bool) -> None:
    if config.key_digests or allowed:
        return
    exposed = [host for host in config.hosts if not _is_local(host)]
    if exposed:
        raise CommandError(
            f"--host {exposed[0]} lets other machines call without a key; "
            "give --api-key-file FILE, or --insecure-no-auth if that is meant",
            EXIT_USAGE,
        )


def _is_local(host: str) -> bool:
    if host.endswith(UNIX_SUFFIX) or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _cors(given: Given) -> tuple[CorsConfig, list[str]]:
    listed = [origin.rstrip("/") for value in given.values.get("cors_origins", ()) for origin in _list(value)]
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
    return replace(config, worker_command=tuple(shlex.split(command))) if command else config


def _log(given: Given) -> LogConfig:
    level = "DEBUG" if given.on("verbose") else _LEVELS[_integer(given, "verbosity", 3, 0, 100, ceiling=4)]
    form = given.last("log_format") or "text"
    if form not in ("text", "json"):
        raise CommandError(f"--log-format must be text or json, but is '{form}'", EXIT_USAGE)
    file = given.last("log_file")
    return LogConfig(
        level=SILENT if given.on("log_disable") else level,
        json=form == "json" or given.on("log_jsonl"),
        file=Path(file).expanduser() if file else None,
    )


def _tls(given: Given) -> TlsConfig | None:
    key, cert = given.last("ssl_key_file"), given.last("ssl_cert_file")
    if not key and not cert:
        return None
    if not (key and cert):
        raise CommandError("--ssl-key-file and --ssl-cert-file go together", EXIT_USAGE)
    for file in (key, cert):
        if not Path(file).is_file():
            raise CommandError(f"no such file: {file}", EXIT_USAGE)
    return TlsConfig(Path(key), Path(cert))


# ---- values -----------------------------------------------------------------------------------


def _list(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _integer(given: Given, key: str, default: int, least: int, most: int, ceiling: int | None = None) -> int:
    text = given.last(key)
    if text is None:
        return default
    flag = "--" + key.replace("_", "-")
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
        raise CommandError(f"--{key.replace('_', '-')} must be a number of seconds, but is '{text}'", EXIT_USAGE)
    return value
