"""Every flag and variable that the peer has means something here: an effect, a note that it has none, or a refusal."""

import json
from typing import Any

import pytest

from router.errors import CommandError
from router.options.flagrows import Effect
from router.options.flags import Given, named, parse
from tests.parity.record_flags import RECORD, flags

FLAGS: list[dict[str, Any]] = json.loads(RECORD.read_text())["flags"]
NAMES = [name for flag in FLAGS for name in flag["names"].split()]
HELP = """
----- params -----

-x,    --extra, --no-extra <a|b>  whether to (default: --extra)
                                  (env: X_EXTRA)
--range START END                 two
--bare
"""


def read(*words: str, **environment: str) -> Given | CommandError:
    try:
        return parse(words, environment)
    except CommandError as refused:
        return refused


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag["names"].split()[-1])
def test_a_flag_of_the_peer_is_understood_under_all_its_names_with_all_its_values(flag: dict[str, Any]) -> None:
    for name in flag["names"].split():
        found = read(name, *["on"] * flag["values"], "--body-limit", "81")
        row = named(name)
        if row is not None and row.refuses("on"):
            assert str(found) == f"{name}: {row.note}"
        else:
            assert isinstance(found, Given) and found.values["body_limit"] == ["81"]


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if "variable" in flag], ids=lambda flag: flag["variable"])
def test_a_variable_of_the_peer_means_its_flag(flag: dict[str, Any]) -> None:
    row = named(flag["variable"])
    assert row is named(flag["names"].split()[-1]) is not None
    found = read(**{flag["variable"]: "1"})
    if row.refuses("1"):
        assert str(found) == f"{flag['variable']}: {row.note}"
    else:
        assert isinstance(found, Given) and (row.key in found.values or row.effect is Effect.NONE)


def test_the_record_is_of_the_whole_help() -> None:
    assert len(FLAGS) > 250 and len(NAMES) == len(set(NAMES)) > 400
    assert list(flags(HELP)) == [
        {"names": "-x --extra --no-extra", "values": 1, "variable": "X_EXTRA"},
        {"names": "--range", "values": 2},
        {"names": "--bare", "values": 0},
    ]
