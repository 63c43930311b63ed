"""Everything that files say, for a command line: corral.toml, and the keys, presets and folder that it or flags name.

Called by serve.py and command.py before settings.py. Invariant: files named by a flag or a variable come before those
that corral.toml names, as everything does.
"""

from dataclasses import replace
from pathlib import Path

from router.config import KeyConfig
from router.configfile.presets import models_in, read_presets
from router.configfile.problems import ConfigError
from router.configfile.reading import FileConfig, ModelEntry, read_file
from router.errors import CommandError
from router.keys.keyfile import read_keys_file
from router.options.flags import Given
from router.secretfile import check_private

OF_FOLDER = {"load_on_start": False, "source": "models_dir"}  # as llama-server has it
DEFAULT_FILE = Path("corral.toml")  # in the working folder


def load(given: Given) -> FileConfig:
    """Raises CommandError, ConfigError."""
    file = look(given)
    if file.problems is not None:
        file.problems.check()
    return file


def look(given: Given) -> FileConfig:
    """As load, but what is wrong in corral.toml is left in its `problems`."""
    file = _config_file(given)
    config = read_file(file) if file else FileConfig()
    server = given.filled(config.server)
    try:
        found = _found(server, config)
    except ConfigError as error:
        raise ConfigError([*(config.problems.in_order() if config.problems else ()), *error.problems]) from None
    return replace(config, models=(*config.models, *found), keys=_keys(server, config))


def _config_file(given: Given) -> Path | None:
    named = given.path("config")
    if named is not None:
        return named
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def _found(server: Given, config: FileConfig) -> list[ModelEntry]:
    """Models of presets and of the folder, but for those that corral.toml has under the same name."""
    folder_path, presets = server.path("models_dir"), server.path("models_preset")
    folder = models_in(folder_path) if folder_path else {}
    entries = read_presets(presets, folder) if presets else []
    known = {entry.name for entry in (*config.models, *entries)}
    entries += [
        ModelEntry(name, path, str(path), settings=OF_FOLDER) for name, path in folder.items() if name not in known
    ]
    listed = {entry.name for entry in config.models}
    return [entry for entry in entries if entry.name not in listed]


def _keys(server: Given, config: FileConfig) -> tuple[KeyConfig, ...]:
    if config.path and _has_secrets(config):
        try:
            check_private(config.path)
        except OSError as error:
            raise CommandError(f"cannot read {config.path}: {error.strerror}", 2) from None
    file = server.path("keys") or config.keys_file
    keys = (*config.keys, *(read_keys_file(file) if file else ()))
    names = [key.name for key in keys]
    for name in names:
        if names.count(name) > 1:
            raise CommandError(f"two keys are called '{name}': one in {config.path}, one in {file}", 2)
    return keys


def _has_secrets(config: FileConfig) -> bool:
    """Whether corral.toml itself holds a key, a token or the password of a Redis."""
    redis = str(config.server.get("redis", ""))
    is_given = bool(config.keys) or not config.server.keys().isdisjoint(("api_key", "hf_token"))
    return is_given or "@" in redis or "password=" in redis
