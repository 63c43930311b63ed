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
from router.options.flagrows import OFF, ON, Effect, Flag, Takes
from router.options.flags import FileValue, Layer, long_names, named
from router.paths import BadPath, path_of

SUFFIX = ".gguf"
EVERY = "*"
OWN_KEYS = ("load-on-startup", "stop-timeout", "dedup-cache-models", "version")
OWN_SWITCHES = ("load-on-startup", "dedup-cache-models")
OWN_FLAGS = ("model", "alias")  # of the gateway on a command line
OF_MODEL = frozenset({Effect.WORKER, Effect.REQUEST, Effect.NONE, Effect.REFUSED})
SPLIT = "-of-"


@dataclass(slots=True)
class _Section:
    """Keys and values as they stand, and the flags they mean."""

    line: int = 0
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
            current = sections.setdefault(line[1:-1].strip(), _Section(number))
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
    told = Problems(problems.file, {(name, key): number for key, (_, number) in section.lines.items()})
    for key, (text, _) in section.lines.items():
        place, flag = (name, key), named(key)
        if key in OWN_KEYS:
            _check_switch(text if key in OWN_SWITCHES else ON[0], place, told)
        elif flag is None:
            told.unknown(place, "flag of a model", [*OWN_KEYS, *_long_names(OF_MODEL)], _long_names(frozenset(Effect)))
        elif flag.effect not in OF_MODEL and flag.key not in OWN_FLAGS:
            told.add(place, "this is a setting of the whole gateway")
        elif flag.refuses(value := _text(flag, key, text)):
            told.add(place, flag.note)
        else:
            _check_value(flag, text, place, told)
            layer[flag.key] = FileValue(flag, key, (value,), told.where(place))
    problems.found += told.found
    return layer


def _long_names(effects: frozenset[Effect]) -> list[str]:
    return [name for name, flag in long_names().items() if flag.effect in effects]


def _check_value(flag: Flag, text: str, place: KeyPath, problems: Problems) -> None:
    """A switch or a word; all else is for settings.py."""
    if flag.takes is Takes.NOTHING:
        _check_switch(text, place, problems)
    elif flag.takes is Takes.WORD:
        try:
            flag.word(text)
        except ValueError as error:
            problems.add(place, str(error))


def _check_switch(text: str, place: KeyPath, problems: Problems) -> None:
    if text.lower() not in (*ON, *OFF):
        problems.add(place, f"must be one of {', '.join((*ON, *OFF))}, but is '{text}'")


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
    try:
        path = path_of(model.texts[0]).absolute() if model else folder.get(name)
    except BadPath as bad:
        problems.found.append(Problem(problems.file, section.line, (name, "model"), str(bad)))
        return None
    if path is None:
        message = "no `model = FILE`, and no such file in --models-dir"
        problems.found.append(Problem(problems.file, section.line, (name,), message))
        return None
    names = tuple(part.strip() for part in alias.texts[0].split(",")) if alias else ()
    load, _ = section.lines.get("load-on-startup", ("false", 0))
    return ModelEntry(
        name, path, f"{problems.file}:{section.line}: {name}", layer, names, {"load_on_start": load.lower() in ON}
    )


def models_in(folder: Path) -> dict[str, Path]:
    """The models of a folder by name: a file by its stem; a folder in it by its name, if it holds one model.

    Raises CommandError.
    """
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
    return {name: path_of(str(path)) for name, path in found.items()}
