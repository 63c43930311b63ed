"""`corral keys new | ls | revoke`: the file of keys, kept without a database.

Run by __main__.py. A running gateway reads the file again when it changes. Invariant: a key is shown once, when it is
made, and never written anywhere.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from router.config import KeyConfig, Scope
from router.configfile.kinds import WrongValue
from router.configfile.tables import KEY
from router.errors import CommandError
from router.keys.keyfile import new_key, read_keys_file, write_keys_file
from router.keys.keys import key_digest

DEFAULT_FILE = Path("keys.toml")
ABOUT = "Keys as tenants, in a file that `file` under [keys] of corral.toml, or `corral serve --keys FILE`, names."
NOTICED = "a running gateway takes note by itself (with --no-watch: on SIGHUP)"
OPTIONS = {  # of `new`: what stands for the value in the help, and what it is if it is not given
    "models": ("NAME", "any"),
    "scopes": ("SCOPE", f"{Scope.INFER}; there are {', '.join(Scope)}"),
    "expires": ("MOMENT", "never; as 2030-12-31 or 2030-12-31T12:00:00Z"),
    "requests-per-minute": ("N", "no limit"),
    "tokens-per-minute": ("N", "no limit"),
    "concurrent": ("N", "no limit"),
    "weight": ("W", "1"),
    "priority": ("N", "0"),
}


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    given = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = given.command
    try:
        command(given)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="corral keys", description=ABOUT, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="new | ls | revoke")
    new = commands.add_parser("new", help="make a key and show it once", allow_abbrev=False)
    new.set_defaults(command=_new)
    new.add_argument("name")
    for setting in KEY[1:]:
        metavar, said = OPTIONS[setting.name]
        many = setting.name in ("models", "scopes")
        new.add_argument(
            f"--{setting.name}", nargs="+" if many else None, metavar=metavar, help=f"{setting.help} (default: {said})"
        )
    listing = commands.add_parser("ls", help="list the keys", allow_abbrev=False)
    listing.set_defaults(command=_list)
    listing.add_argument("--json", action="store_true")
    revoke = commands.add_parser("revoke", help="take a key away", allow_abbrev=False)
    revoke.set_defaults(command=_revoke)
    revoke.add_argument("name")
    for each in (new, listing, revoke):
        each.add_argument("--file", type=Path, default=DEFAULT_FILE, help=f"the file of keys ({DEFAULT_FILE})")
    return parser


def _new(given: argparse.Namespace) -> None:
    if not given.name or not given.name.isprintable():
        raise CommandError(f"a key needs a name that can be read, but got {given.name!a}", 2)
    keys = read_keys_file(given.file) if given.file.exists() else ()
    if any(key.name == given.name for key in keys):
        raise CommandError(f"{given.file} has a key '{given.name}' already; revoke it first, or take another name", 2)
    values = {setting.field: _read(setting.field, getattr(given, setting.field)) for setting in KEY[1:]}
    secret = new_key()
    chosen = {name: value for name, value in values.items() if value is not None}
    write_keys_file(given.file, [*keys, KeyConfig(given.name, key_digest(secret.encode()), **chosen)])
    print(secret)
    print(f"key '{given.name}' is in {given.file}; it is shown only this once; {NOTICED}", file=sys.stderr)


def _read(name: str, text: Any) -> Any:
    """An option's value by the kind that its setting has in the file."""
    if text is None:
        return None
    setting = next(each for each in KEY if each.field == name)
    try:
        value = setting.kind.read(_typed(name, text))
    except WrongValue as wrong:
        got = " ".join(text) if isinstance(text, list) else text
        raise CommandError(f"--{setting.name} needs {wrong}, but got '{got}'", 2) from None
    return frozenset(map(Scope, value)) if name == "scopes" else value


def _typed(name: str, text: Any) -> Any:
    """As TOML would have it."""
    if name in ("models", "scopes"):
        return text
    with suppress(ValueError):
        return datetime.fromisoformat(text) if name == "expires" else float(text) if name == "weight" else int(text)
    return text


def _list(given: argparse.Namespace) -> None:
    keys = read_keys_file(given.file)
    if given.json:
        print(orjson.dumps([_shown(key) for key in keys]).decode())
        return
    for key in keys:
        told = [(name, value) for name, value in _shown(key).items() if name != "name" and value is not None]
        print("  ".join([key.name, *(f"{name}={value}" for name, value in told)]))


def _shown(key: KeyConfig) -> dict[str, Any]:
    """What may be seen of a key: everything but its digest, of which the beginning is enough to know it by."""
    expired = key.expires is not None and key.expires <= datetime.now(UTC)
    return {
        "name": key.name,
        "sha256": key.digest.hex()[:8],
        "models": ",".join(key.models),
        "scopes": ",".join(sorted(key.scopes)),
        "expires": f"{key.expires.isoformat()}{' (expired)' if expired else ''}" if key.expires else None,
        "requests-per-minute": key.requests_per_minute,
        "tokens-per-minute": key.tokens_per_minute,
        "concurrent": key.concurrent,
        "weight": key.weight,
        "priority": key.priority,
    }


def _revoke(given: argparse.Namespace) -> None:
    keys = read_keys_file(given.file)
    kept = [key for key in keys if key.name != given.name]
    if len(kept) == len(keys):
        raise CommandError(f"{given.file} has no key '{given.name}' (keys: {', '.join(key.name for key in keys)})", 2)
    write_keys_file(given.file, kept)
    print(f"key '{given.name}' is gone from {given.file}; {NOTICED}")


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
