"""The file of keys: a TOML table for each, written by `corral keys`, read at the start and at a reload.

Called by configfile/loading.py and keycommand.py. Invariant: a change replaces the file whole.
"""

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from router.config import KeyConfig
from router.configfile.locate import locate
from router.configfile.problems import Problems
from router.configfile.reading import read_keys
from router.configfile.tables import KEY
from router.configfile.tomltext import parse_toml
from router.errors import CommandError
from router.secretfile import read_secret

HEAD = "# Kept by `corral keys`. It holds digests of keys, not the keys.\n"
PREFIX = "sk-corral-"


def new_key() -> str:
    """256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def read_keys_file(file: Path) -> Sequence[KeyConfig]:
    """Raises CommandError if it cannot be read or is not private, ConfigError if something in it is wrong."""
    try:
        text = read_secret(file).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from None
    tables = parse_toml(text, file)
    problems = Problems(file, locate(text))
    keys = read_keys(tables, (), problems)
    problems.check()
    return keys


def write_keys_file(file: Path, keys: Sequence[KeyConfig]) -> None:
    """Puts the keys in the place of what the file holds."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            _keep_owner(file, descriptor)
            opened.write(HEAD + "".join(map(_rendered, keys)))
            opened.flush()
            os.fsync(opened.fileno())
        fresh.replace(file)
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror}") from None
    finally:
        fresh.unlink(missing_ok=True)


def _keep_owner(file: Path, descriptor: int) -> None:
    """A gateway that may read the file goes on to, whoever changes it. Raises OSError."""
    with suppress(FileNotFoundError):
        found = file.stat()
        os.fchown(descriptor, found.st_uid, found.st_gid)


def _rendered(key: KeyConfig) -> str:
    """One key's table: what differs from the defaults."""
    default = KeyConfig(key.name, key.digest)
    lines = [f"\n[{_text(key.name)}]", f'sha256 = "{key.digest.hex()}"']
    for setting in KEY[1:]:
        value = getattr(key, setting.field)
        if value != getattr(default, setting.field):
            lines.append(f"{setting.name} = {_value(value)}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple | frozenset):
        return f"[{', '.join(map(_text, sorted(value)))}]"
    return str(value)


def _text(text: str) -> str:
    """A basic string of TOML, whose escapes are those of JSON."""
    return orjson.dumps(text).decode().replace("\x7f", "\\u007f")


def _unreadable(file: Path, error: Exception) -> CommandError:
    reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
    remedy = f"; make one: corral keys new NAME --file {file}" if isinstance(error, FileNotFoundError) else ""
    return CommandError(f"cannot read keys from {file}: {reason}{remedy}", 2, file=file)
