"""Which keys may call: those of files, which have rights of their own, and those of the command line, which have all.

Called by settings.py. Invariant: one key stands once, under one name, so that what it may do is what is written of it.
"""

from collections.abc import Sequence
from pathlib import Path

from router.config import KeyConfig
from router.errors import CommandError
from router.keys.keys import full_key
from router.options.flags import EXIT_USAGE, Given
from router.secretfile import read_secret


def all_keys(given: Given, named: Sequence[KeyConfig]) -> tuple[KeyConfig, ...]:
    """`named`: those of files, by [keys] or --keys. Raises CommandError."""
    owners: dict[bytes, str] = {}
    for key in named:
        other = owners.setdefault(key.digest, key.name)
        if other != key.name:
            raise CommandError(f"'{other}' and '{key.name}' are the same key; revoke one of them", EXIT_USAGE)
    plain = _plain_keys(given)
    for key in plain:
        if (name := owners.get(key.digest)) is not None:
            raise CommandError(
                f"--api-key or --api-key-file would give every right to the key '{name}', which has rights of its own; "
                f"take it out there, or run: corral keys revoke {name}",
                EXIT_USAGE,
            )
    return (*named, *plain)


def _plain_keys(given: Given) -> tuple[KeyConfig, ...]:
    """Those of --api-key and --api-key-file, each once."""
    keys = given.listed("api_key")
    for file in given.paths("api_key_file"):
        found = _keys_in(file)
        if not found:
            raise CommandError(f"--api-key-file {file}: no key in it", EXIT_USAGE, file=file)
        keys += found
    if not keys and "api_key" in given.values:
        raise CommandError("--api-key is empty", EXIT_USAGE)
    return tuple(full_key(key.encode("utf-8", "surrogateescape")) for key in dict.fromkeys(keys))


def _keys_in(file: Path) -> list[str]:
    try:
        text = read_secret(file).decode("utf-8")
    except OSError as error:
        raise CommandError(f"cannot read --api-key-file {file}: {error.strerror}", EXIT_USAGE, file=file) from None
    except UnicodeDecodeError:
        raise CommandError(f"--api-key-file {file}: not UTF-8", EXIT_USAGE, file=file) from None
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
