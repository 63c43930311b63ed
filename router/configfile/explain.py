"""What a model's settings are and who said so. Pure.

Called by command.py for `corral config explain`. Invariant: every flag of a worker and of its samplers is shown, with
the value in force and its origin: a flag, a variable, a place in a file, or the default.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from router.config import AliasConfig, FallbackConfig, GatewayConfig, ModelConfig, ShadowConfig, WorkerTls
from router.configfile.reading import FileConfig, ModelEntry
from router.options.flagrows import Effect
from router.options.flags import Given
from router.options.flagtable import FLAGS
from router.policy.aliases import AliasTable

DEFAULT = "default"
OF_MODEL = frozenset({Effect.WORKER, Effect.REQUEST})  # the flags that a model may have of its own
AS_FLAGS = frozenset({"worker_arguments", "sampling"})  # what of a ModelConfig is told flag by flag


@dataclass(frozen=True, slots=True)
class Row:
    """One setting."""

    name: str
    value: str
    origin: str


def explain(name: str, given: Given, file: FileConfig, config: GatewayConfig) -> list[Row]:
    """The rows of a model or an alias, by any of its names. Raises ModelNotFound."""
    route = AliasTable(config.models, config.aliases).resolve(name)
    model = next(each for each in config.models if each.name == route.model)
    entry = next((each for each in file.models if each.name in model.names), None)
    alias = next((each for each in config.aliases if each.name == name), None)
    return [*_alias(alias, file), *_model(model, entry), *_flags(given, file, entry)]


def _alias(alias: AliasConfig | None, file: FileConfig) -> Iterator[Row]:
    if alias is None:
        return
    default = AliasConfig(alias.name, ())
    for each in fields(AliasConfig)[1:]:
        value = getattr(alias, each.name)
        if each.compare and value != getattr(default, each.name):
            path = ("aliases", alias.name, each.name)
            yield Row(f"alias {each.name}", _shown(value), file.problems.where(path) if file.problems else "")


def _model(model: ModelConfig, entry: ModelEntry | None) -> Iterator[Row]:
    where = entry.where if entry else "command line"
    yield Row("path", _shown(model.path), where)
    yield Row("names", " ".join(model.names), where)
    for each in fields(ModelConfig)[2:]:
        if each.name in AS_FLAGS:
            continue
        is_given = entry is not None and each.name in entry.settings
        yield Row(each.name.replace("_", "-"), _shown(getattr(model, each.name)), where if is_given else DEFAULT)


def _flags(given: Given, file: FileConfig, entry: ModelEntry | None) -> Iterator[Row]:
    merged = given.filled(entry.worker if entry else {}).filled(file.server)
    for flag in FLAGS:
        if flag.effect in OF_MODEL:
            yield Row(flag.key.replace("_", "-"), merged.last(flag.key) or "", merged.origins.get(flag.key, DEFAULT))


def _shown(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case FallbackConfig():
            return f"{value.to} ({'|'.join(sorted(value.on))})"
        case WorkerTls():
            given = {each.name.replace("_", "-"): getattr(value, each.name) for each in fields(WorkerTls)}
            return _shown({name: item for name, item in given.items() if item is not None}) or "yes"
        case ShadowConfig():
            return f"{value.to} ({value.fraction:g})"
        case (str() as model, float() as weight):
            return f"{model} ({weight:g})"
        case tuple():
            return ", ".join(_shown(item) for item in value)
        case Mapping():
            return ", ".join(f"{name}={_shown(item)}" for name, item in value.items())
        case _:
            return str(value)
