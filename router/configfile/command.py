"""`corral config check | schema | explain MODEL | diff OLD NEW`: a configuration looked at without serving.

Run by __main__.py. Exit status: 0 all is well, 1 `diff` found differences, 2 something is wrong. Invariant: nothing is
started, fetched or changed.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import orjson

from router.api.routed import overlay_error
from router.config import GatewayConfig
from router.configfile.diff import differences
from router.configfile.explain import explain
from router.configfile.loading import look
from router.configfile.problems import ConfigError, Problems
from router.configfile.reading import FileConfig
from router.configfile.schema import schema
from router.errors import CommandError, RouterError
from router.options.flags import EXIT_USAGE, Given, parse
from router.options.settings import gateway_config

USAGE = """usage: corral config check [FILE] [--models-preset FILE] [--models-dir DIR] [flags of corral serve]
       corral config schema
       corral config explain MODEL [--json] [flags of corral serve]
       corral config diff OLD NEW

check    everything that is wrong in FILE (./corral.toml), and in presets and folders of models, a line each
schema   its JSON Schema, for editors
explain  what each setting of a model is, and who said so
diff     what a reload from OLD to NEW would do
"""


NOTHING = "no ./corral.toml; say which: corral config check FILE"


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return 0
    match list(arguments):
        case ["check", *rest]:
            return _guarded(_check, rest)
        case ["schema"]:
            print(orjson.dumps(schema(), option=orjson.OPT_INDENT_2).decode())
            return 0
        case ["explain", name, *rest]:
            return _guarded(lambda flags: _explain(name, flags), rest)
        case ["diff", old, new]:
            return _guarded(lambda _: _diff(old, new), [])
    print(USAGE, end="", file=sys.stderr)
    return EXIT_USAGE


def _guarded(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    try:
        return command(arguments)
    except ConfigError as error:
        for problem in (*error.problems, error.__cause__):
            if problem is not None:
                print(f"error: {problem}", file=sys.stderr)
        return error.exit_code
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _check(arguments: Sequence[str]) -> int:
    """FILE is the same as --config FILE."""
    named = [] if not arguments or arguments[0].startswith("-") else ["--config", arguments[0]]
    words = [*named, *arguments[1 if named else 0 :]]
    given = parse(words, os.environ)
    looked_at = _looked_at(given, look(given))
    if not looked_at:
        raise CommandError(NOTHING, EXIT_USAGE)
    _, _, config = _read(words)
    for note in config.notes:
        print(f"note: {note}")
    counts = f"{len(config.models)} models, {len(config.aliases)} aliases, {len(config.keys)} keys"
    print(f"{', '.join(looked_at)}: {counts}: good")
    return 0


def _looked_at(given: Given, file: FileConfig) -> list[str]:
    server = given.filled(file.server)
    found = (file.path, server.path("models_preset"), server.path("models_dir"))
    return [str(each) for each in found if each is not None]


def _explain(name: str, arguments: Sequence[str]) -> int:
    given, file, config = _read([each for each in arguments if each != "--json"])
    try:
        rows = explain(name, given, file, config)
    except RouterError as error:
        raise CommandError(error.message, EXIT_USAGE) from None
    if "--json" in arguments:
        print(orjson.dumps({row.name: {"value": row.value, "origin": row.origin} for row in rows}).decode())
        return 0
    widths = [max(len(row.name) for row in rows), max(len(row.value) for row in rows)]
    for row in rows:
        print(f"{row.name:<{widths[0]}}  {row.value:<{widths[1]}}  {row.origin}")
    return 0


def _diff(old: str, new: str) -> int:
    found = differences(*(_read(["--config", name])[2] for name in (old, new)))
    for each in found:
        print(each)
    return 1 if found else 0


def _read(arguments: Sequence[str]) -> tuple[Given, FileConfig, GatewayConfig]:
    """As `corral serve` would read it. Raises ConfigError with all that is wrong in the file, else CommandError."""
    given = parse(arguments, os.environ)
    file = look(given)
    problems = file.problems or Problems(Path(), {})
    for alias in file.aliases:
        error = overlay_error(alias)
        if error is not None:
            problems.add(("aliases", alias.name, error[0]), error[1])
    try:
        config = gateway_config(given, (), file)
    except ConfigError:
        raise
    except CommandError as error:
        _raise_with(problems, error)
        raise
    problems.check()
    return given, file, config


def _raise_with(problems: Problems, error: CommandError) -> None:
    """Raises the problems, if there are any, with an error that has another place as their cause."""
    try:
        problems.check()
    except ConfigError as found:
        raise found from error


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
