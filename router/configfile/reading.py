"""corral.toml: its text becomes a FileConfig, with everything that is wrong in it.

Called by loading.py; settings.py puts flags and environment on top. Pure but for reading the file itself.
Invariant: every key of the file was understood or is a problem; none is skipped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from router.config import (
    AliasConfig,
    BalanceConfig,
    FallbackConfig,
    KeyConfig,
    LimitsConfig,
    Reason,
    Scope,
    ShadowConfig,
    WorkerTls,
)
from router.configfile.flagvalues import read_flags, shown
from router.configfile.kinds import WrongValue
from router.configfile.locate import KeyPath, locate
from router.configfile.problems import Problems
from router.configfile.tables import (
    ALIAS,
    BALANCE,
    FALLBACK,
    KEY,
    KEYS_FILE,
    LIMITS,
    MAX_WEIGHT,
    MODEL,
    OF_PROCESSES,
    SHADOW_TABLE,
    WORKER_TLS,
    Setting,
)
from router.configfile.tomltext import parse_toml
from router.errors import CommandError
from router.options.flagrows import COMMAND_LINE_ONLY, Effect
from router.options.flags import Layer
from router.paths import BadPath, path_of

SECTIONS = ("server", "models", "aliases", "keys", "limits", "balance")
IN_SERVER = frozenset(Effect) - COMMAND_LINE_ONLY
IN_WORKER = frozenset({Effect.WORKER, Effect.REQUEST, Effect.NONE, Effect.REFUSED})


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that a file describes."""

    name: str
    path: Path | None  # None: all its workers are on other hosts
    where: str
    worker: Layer = field(default_factory=dict)
    names: tuple[str, ...] = ()  # further ones
    settings: Mapping[str, Any] = field(default_factory=dict)  # the other fields of ModelConfig that are given


@dataclass(frozen=True, slots=True)
class FileConfig:
    """What a configuration file says. The default is an absent file."""

    path: Path | None = None
    server: Layer = field(default_factory=dict)
    models: tuple[ModelEntry, ...] = ()
    aliases: tuple[AliasConfig, ...] = ()
    keys: tuple[KeyConfig, ...] = ()
    keys_file: Path | None = None
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    problems: Problems | None = None  # found so far; knows the lines, for those who find more


def read_file(file: Path) -> FileConfig:
    """What is wrong in it stands in its `problems`. CommandError if it cannot be read, ConfigError if no TOML."""
    try:
        return read_text(file.read_bytes().decode("utf-8-sig"), file)
    except OSError as error:
        raise CommandError(f"cannot read --config {file}: {error.strerror}", 2) from None
    except UnicodeDecodeError:
        raise CommandError(f"--config {file}: not UTF-8", 2) from None


def read_text(text: str, file: Path) -> FileConfig:
    """As read_file, of a text; `file` is what relative paths in it are relative to."""
    document = parse_toml(text, file)
    problems = Problems(file, locate(text))
    for name in document:
        if name not in SECTIONS:
            problems.unknown((name,), "section", SECTIONS)
    sections = {name: _table(document.get(name, {}), (name,), problems) for name in SECTIONS}
    base = file.absolute().parent
    keys = dict(sections["keys"])
    keys_file = _values((KEYS_FILE,), {"file": keys.pop("file")}, ("keys",), problems) if "file" in keys else {}
    return FileConfig(
        path=file,
        server=read_flags(sections["server"], ("server",), problems, IN_SERVER, base),
        models=tuple(_models(sections["models"], problems, base)),
        aliases=tuple(_aliases(sections["aliases"], problems)),
        keys=tuple(read_keys(keys, ("keys",), problems)),
        keys_file=_path(keys_file, ("keys",), problems, base, "file"),
        limits=LimitsConfig(**_values(LIMITS, sections["limits"], ("limits",), problems)),
        balance=BalanceConfig(**_values(BALANCE, sections["balance"], ("balance",), problems)),
        problems=problems,
    )


# ---- the sections -----------------------------------------------------------------------------


def _models(tables: Mapping[str, Any], problems: Problems, base: Path) -> Sequence[ModelEntry]:
    entries = []
    for name, given in tables.items():
        place = ("models", name)
        table = _table(given, place, problems)
        values = _values(MODEL, table, place, problems)
        worker = read_flags(values.pop("worker", {}), (*place, "worker"), problems, IN_WORKER, base)
        path = _path(values, place, problems, base)
        values.pop("path", None)
        names = values.pop("names", ())
        _read_remote(values, place, problems, base)
        if not {"path", "workers"} & {*table}:
            problems.add(place, "give `path`, `workers`, or both")
        for key in table if "workers" in table and "path" not in table else ():
            if key.replace("_", "-") in OF_PROCESSES:
                problems.add((*place, key), "this is for a model with a `path`")
        entries.append(ModelEntry(name, path, problems.where(place), worker, names, values))
    return entries


def _read_remote(values: dict[str, Any], place: KeyPath, problems: Problems, base: Path) -> None:
    """In place: how workers on other hosts are reached, with the files' whole paths."""
    if not values.get("workers"):
        for name in ("tls", "token_file"):
            if values.pop(name, None) is not None:
                problems.add((*place, name.replace("_", "-")), "this is for `workers`, of which there are none")
        return
    if "token_file" in values:
        values["token_file"] = _path(values, place, problems, base, "token_file")
    if "tls" in values:
        inside = (*place, "tls")
        tls = _values(WORKER_TLS, values["tls"], inside, problems)
        if ("cert" in tls) != ("key" in tls):
            problems.add(inside, "`cert` and `key` go together")
        files: dict[str, Any] = {name: _path(tls, inside, problems, base, name) for name in ("ca", "cert", "key")}
        values["tls"] = WorkerTls(**{**tls, **files})


def _aliases(tables: Mapping[str, Any], problems: Problems) -> Sequence[AliasConfig]:
    return [_alias(name, table, ("aliases", name), problems) for name, table in tables.items()]


def _alias(name: str, table: Any, place: KeyPath, problems: Problems) -> AliasConfig:
    """A text is the short form of a table with nothing but its target."""
    if isinstance(table, str):
        return AliasConfig(name, ((table, 1.0),), where=problems.where(place))
    values = _values(ALIAS, _fallbacks_apart(_table(table, place, problems)), place, problems)
    targets = _targets(values.pop("target", None), values.pop("targets", None), place, problems)
    fallbacks = table.get("fallbacks", []) if isinstance(table, dict) else []
    shadow = table.get("shadow") if isinstance(table, dict) else None
    return AliasConfig(
        name=name,
        targets=targets,
        fallbacks=_fallbacks(fallbacks, (*place, "fallbacks"), problems),
        shadow=None if shadow is None else _shadow(shadow, (*place, "shadow"), problems),
        where=problems.where(place),
        **values,
    )


def _fallbacks_apart(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings whose values have more than one form are read on their own."""
    return {key: value for key, value in table.items() if key not in ("fallbacks", "shadow")}


def _targets(target: str | None, targets: Mapping[str, Any] | None, place: KeyPath, problems: Problems) -> Any:
    if (target is None) == (targets is None):
        problems.add(place, "give one of `target` and `targets`")
        return ()
    if targets is None:
        return ((target, 1.0),)
    if not targets:
        problems.add((*place, "targets"), "expected at least one model")
    for model, weight in targets.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= MAX_WEIGHT:
            problems.add((*place, "targets", model), f"expected a weight above 0, at most {MAX_WEIGHT:g}")
            return ()
    return tuple((model, float(weight)) for model, weight in targets.items())


def _fallbacks(value: Any, place: KeyPath, problems: Problems) -> tuple[FallbackConfig, ...]:
    items = value if isinstance(value, list) else [value]
    found = []
    for index, item in enumerate(items):
        table = {"to": item} if isinstance(item, str) else item
        given = _values(FALLBACK, _table(table, (*place, str(index)), problems), (*place, str(index)), problems)
        if "to" in given:
            reasons = frozenset(map(Reason, given.get("on", Reason)))
            found.append(FallbackConfig(given["to"], reasons))
    return tuple(found)


def _shadow(value: Any, place: KeyPath, problems: Problems) -> ShadowConfig | None:
    table = {"to": value} if isinstance(value, str) else value
    given = _values(SHADOW_TABLE, _table(table, place, problems), place, problems)
    return ShadowConfig(**given) if "to" in given else None


def read_keys(tables: Mapping[str, Any], place: KeyPath, problems: Problems) -> Sequence[KeyConfig]:
    """The keys of a table of tables, by name."""
    keys = []
    for name, table in tables.items():
        given = _values(KEY, _table(table, (*place, name), problems), (*place, name), problems)
        if "sha256" in given:
            if "scopes" in given:
                given["scopes"] = frozenset(map(Scope, given["scopes"]))
            keys.append(KeyConfig(name, given.pop("sha256"), **given))
    return keys


# ---- values -----------------------------------------------------------------------------------


def _path(values: Mapping[str, Any], place: KeyPath, problems: Problems, base: Path, name: str = "path") -> Path | None:
    """The path of that name, if there is one and it is good."""
    try:
        return path_of(values[name], base) if name in values else None
    except BadPath as bad:
        problems.add((*place, name.replace("_", "-")), str(bad))
        return None


def _table(value: Any, place: KeyPath, problems: Problems) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    problems.add(place, f"expected a table, but got {shown(value)}")
    return {}


def _values(
    settings: Sequence[Setting], table: Mapping[str, Any], place: KeyPath, problems: Problems
) -> dict[str, Any]:
    """The settings that are given and good, by the fields of their dataclass."""
    by_name = {setting.name: setting for setting in settings}
    values: dict[str, Any] = {}
    for key, value in table.items():
        setting = by_name.get(key.replace("_", "-"))
        if setting is None:
            problems.unknown((*place, key), "setting", by_name)
            continue
        try:
            values[setting.field] = setting.kind.read(value)
        except WrongValue as wrong:
            problems.add((*place, key), f"expected {wrong}, but got {shown(value)}")
    for setting in settings:
        if setting.required and setting.field not in values and setting.name not in table:
            problems.add(place, f"'{setting.name}' is missing")
    return values
