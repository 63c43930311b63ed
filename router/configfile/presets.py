"""Models that are found rather than listed: llama-server's INI presets and its folder of models.

Called by serve.py's configuration. A preset file has a section for each model and [*] for all of them; keys are flags
in any of their spellings, without dashes. Invariant: as reading.py, every key was understood or is a problem.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from router.configfile.locate import KeyPath
from router.configfile.problems import Problem, Problems
from router.configfile.reading import ModelEntry
from router.errors import CommandError
from router.options.flagrows import Effect, Flag, Takes
from router.options.flags import FileValue, Layer, long_names, named

SUFFIX = ".gguf"
EVERY = "*"
ON = frozenset({"1", "true", "on", "yes", "enabled"})
OFF = frozenset({"0", "false", "off", "no", "disabled"})
OWN_KEYS = frozenset({"load-on-startup", "stop-timeout", "dedup-cache-models", "version"})
SPLIT = "-of-"


@dataclass(slots=True)
class _Section:
    """Keys and values as they stand, and the flags they mean."""

    lines: dict[str, tuple[str, int]] = field(default_factory=dict)
    layer: dict[str, FileValue] = field(default_factory=dict)


def read_presets(file: Path, folder: Mapping[str, Path]) -> list[ModelEntry]:
    """The models of a preset file; one without a `model` of its own takes the folder's of the same name."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise CommandError(f"cannot read --models-preset {file}: {reason}", 2, file=file) from None
    problems = Problems(file, {})
    sections = _sections(text, problems)
    for name, section in sections.items():
        section.layer.update(_flags(section, name, problems))
    shared = sections.pop(EVERY, _Section()).layer
    entries = [_entry(name, section, shared, folder, problems) for name, section in sections.items()]
    problems.check()
    return [entry for entry in entries if entry is not None]


def _sections(text: str, problems: Problems) -> dict[str, _Section]:
    """What stands before the first section is about the file itself."""
    sections: dict[str, _Section] = {}
    current = _Section()
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if "\0" in line:
            problems.found.append(Problem(problems.file, number, (), "a NUL character can stand in no name or value"))
            continue
        if not line or line[0] in "#;":
            continue
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1].strip(), _Section())
            continue
        key, joined, value = line.partition("=")
        if not joined:
            message = f"expected [NAME] or KEY = VALUE, but got {line!r}"
            problems.found.append(Problem(problems.file, number, (), message))
            continue
        current.lines[key.strip()] = value.strip(), number
    return sections


def _flags(section: _Section, name: str, problems: Problems) -> Layer:
    layer: dict[str, FileValue] = {}
    for key, (text, number) in section.lines.items():
        if key in OWN_KEYS:
            continue
        flag = named(key)
        value = _text(flag, key, text) if flag else ""
        if flag is None or not _is_of_model(flag) or flag.refuses(value):
            _refuse(problems, (name, key), number, flag)
            continue
        where = f"{problems.file}:{number}: {name}.{key}"
        layer[flag.key] = FileValue(flag, key, (value,), where)
    return layer


def _is_of_model(flag: Flag) -> bool:
    return flag.effect not in (Effect.SERVE, Effect.SHOW) or flag.key in ("model", "alias")


def _refuse(problems: Problems, path: KeyPath, line: int, flag: Flag | None) -> None:
    told = Problems(problems.file, {path: line})
    if flag is None:
        told.unknown(
            path, "flag of a model", (name for name, each in long_names().items() if each.effect is Effect.WORKER)
        )
    else:
        told.add(path, flag.note or "this is a setting of the whole gateway")
    problems.found += told.found


def _text(flag: Flag, key: str, text: str) -> str:
    if flag.takes is not Takes.NOTHING:
        return text
    turned = any(off.lstrip("-") == key for off in flag.off)
    return "off" if (text.lower() in OFF) != turned else "on"


def _entry(
    name: str, section: _Section, shared: Layer, folder: Mapping[str, Path], problems: Problems
) -> ModelEntry | None:
    layer = {**shared, **section.layer}
    model, alias = layer.pop("model", None), layer.pop("alias", None)
    path = Path(model.texts[0]).expanduser().absolute() if model else folder.get(name)
    if path is None:
        problems.found.append(Problem(problems.file, 0, (name,), "no `model = FILE`, and no such file in --models-dir"))
        return None
    names = tuple(part.strip() for part in alias.texts[0].split(",")) if alias else ()
    load, _ = section.lines.get("load-on-startup", ("false", 0))
    return ModelEntry(name, path, f"{problems.file}: {name}", layer, names, {"load_on_start": load.lower() in ON})


def models_in(folder: Path) -> dict[str, Path]:
    """The models of a folder by name: a file by its stem; a folder in it by its name, if it holds one model."""
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        raise CommandError(f"cannot read --models-dir {folder}: {error.strerror}", 2, file=folder) from None
    found = {child.stem: child.absolute() for child in children if child.suffix == SUFFIX and child.is_file()}
    for child in children:
        inside = sorted(child.glob(f"*{SUFFIX}")) if child.is_dir() else []
        firsts = [file for file in inside if SPLIT not in file.stem or f"-00001{SPLIT}" in file.stem]
        weights = [file for file in firsts if not file.name.startswith("mmproj")]
        if len(weights) == 1:
            found[child.name] = weights[0].absolute()
    return found
