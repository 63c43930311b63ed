"""Which models are served, and what they are called: those of the command line and those of files, put together.

Called by settings.py. Invariant: every file stands once, every name belongs to one model, and every file could be read.
"""

import errno
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from router.config import ModelConfig, WorkerTls
from router.configfile.reading import ModelEntry
from router.errors import CommandError
from router.fleet.modelfile import contents_of
from router.options.flags import EXIT_USAGE, Layer
from router.paths import path_of
from router.secretfile import read_secret


@dataclass(frozen=True, slots=True)
class OwnFlags:
    """What the flags in force for a model make of it."""

    worker_arguments: tuple[str, ...]
    sampling: Mapping[str, Any]

    def applied(self, model: ModelConfig) -> ModelConfig:
        arguments = self.worker_arguments
        contents = contents_of(model.path, arguments)
        return replace(model, worker_arguments=arguments, contents=contents, sampling=self.sampling)


FlagsOf = Callable[[Layer], OwnFlags]  # with a model's own flags: those in force for it


def assemble(
    paths: Sequence[Path], aliases: Sequence[str], entries: Sequence[ModelEntry], flags_of: FlagsOf
) -> tuple[ModelConfig, ...]:
    """The models of -m and --alias, then those of files; a file given both ways is one model with both's names."""
    given = _from_flags(paths, aliases, [entry.path for entry in entries if entry.path])
    listed = [(_from_file(entry), entry) for entry in entries]
    for model, entry in listed:
        _check_files(model, f"{entry.where}: ")
    models = [flags_of(entry.worker).applied(model) for model, entry in listed]
    known = {model.path: index for index, model in enumerate(models) if model.path is not None}
    extra = []
    for path, names in given.items():
        if path in known:
            model = models[known[path]]
            models[known[path]] = replace(model, names=tuple(dict.fromkeys((*model.names, *names))))
        else:
            extra.append(flags_of({}).applied(ModelConfig(path, tuple(dict.fromkeys(names)) or (path.stem,))))
    for model in extra:
        _check_files(model)
    found = (*extra, *models)
    _check_unique(found)
    return found


def _from_file(entry: ModelEntry) -> ModelConfig:
    return ModelConfig(entry.path, tuple(dict.fromkeys((entry.name, *entry.names))), **entry.settings)


def _from_flags(paths: Sequence[Path], aliases: Sequence[str], listed: Sequence[Path]) -> dict[Path, list[str]]:
    """Each file once, with its aliases in the order given."""
    files: dict[Path, list[str]] = {path.absolute(): [] for path in paths}
    for name, file in _alias_pairs(aliases, list(files), listed):
        files.setdefault(file, []).append(name)
    return files


def _alias_pairs(aliases: Sequence[str], files: Sequence[Path], listed: Sequence[Path]) -> list[tuple[str, Path]]:
    """(name, file) of every --alias, in both of its forms."""
    pairs = []
    for alias in aliases:
        if alias != alias.encode("utf-8", "replace").decode():
            raise CommandError(f"--alias {alias!r}: a name must be UTF-8", EXIT_USAGE)
        name, joined, file = alias.partition("=")
        if joined and not (name and file):
            raise CommandError(f"--alias {alias}: NAME=FILE is what is needed", EXIT_USAGE)
        if joined:
            pairs.append((name, _named_file(file, [*files, *listed])))
        elif len(files) == 1:
            pairs += [(part.strip(), files[0]) for part in alias.split(",") if part.strip()]
        else:
            raise CommandError(f"--alias {alias}: with several models say which, as {alias}=FILE", EXIT_USAGE)
    return pairs


def _named_file(file: str, files: Sequence[Path]) -> Path:
    """The model an alias means: a base name of a given one, or a path."""
    by_base_name = {known for known in files if known.name == file}
    if len(by_base_name) > 1:
        raise CommandError(f"--alias ...={file}: two models have that name; give the whole path", EXIT_USAGE)
    return by_base_name.pop() if by_base_name else path_of(file).absolute()


def _check_files(model: ModelConfig, where: str = "") -> None:
    """That whatever is read for it can be, and that secrets are kept as such. `where`: who names them."""
    tls = model.tls or WorkerTls()
    for what, file, read in (
        ("model", model.path, _read_a_byte),
        ("token-file", model.token_file, read_secret),
        ("ca", tls.ca, _read_a_byte),
        ("cert", tls.cert, _read_a_byte),
        ("key", tls.key, read_secret),
    ):
        try:
            if file is not None:
                read(file)
        except OSError as error:
            raise CommandError(f"{where}cannot read {what} {file}: {error.strerror}", EXIT_USAGE, file=file) from None


def _read_a_byte(file: Path) -> bytes:
    """Of devices and pipes, nothing: there one may wait for ever."""
    mode = file.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "Not a regular file")
    with file.open("rb") as opened:
        return opened.read(1)


def _check_unique(models: Sequence[ModelConfig]) -> None:
    owners: dict[str, ModelConfig] = {}
    for model in models:
        for name in model.names:
            other = owners.setdefault(name, model)
            if other is not model:
                both = f"{_origin(other)} and {_origin(model)}"
                raise CommandError(
                    f"two models are called '{name}': {both}; name one with --alias NAME=FILE", EXIT_USAGE
                )


def _origin(model: ModelConfig) -> str:
    return str(model.path) if model.path is not None else f"the one at {', '.join(model.workers)}"
