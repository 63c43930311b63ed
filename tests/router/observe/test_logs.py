import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.config import LogConfig
from router.observe import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:], root.level = handlers, level


def lines(config: LogConfig, *messages: str) -> list[str]:
    logs.configure(config)
    for message in messages:
        logging.getLogger("corral.test").info("%s", message)
    assert config.file is not None
    return config.file.read_text("utf-8").splitlines()


def test_a_message_cannot_forge_a_second_line_or_colour_the_terminal(tmp_path: Path) -> None:
    (line,) = lines(LogConfig(file=tmp_path / "log"), "a\nerror forged\r\x1b[31m\u202e")
    assert line.endswith("info    a\\nerror forged\\x0d\\x1b[31m\\u202e")


def test_json_events_are_objects_whatever_they_quote(tmp_path: Path) -> None:
    (line,) = lines(LogConfig(file=tmp_path / "log", json=True), 'a\n"b" \udcff')
    event = json.loads(line)
    assert (event["level"], event["logger"], event["message"]) == ("info", "corral.test", 'a\n"b" ?')


def test_the_level_leaves_the_rest_out(tmp_path: Path) -> None:
    assert lines(LogConfig(level="WARNING", file=tmp_path / "log"), "unheard") == []


@pytest.mark.parametrize("as_json", [True, False])
def test_fields_of_an_event_stand_beside_its_message(tmp_path: Path, as_json: bool) -> None:
    logs.configure(LogConfig(file=tmp_path / "log", json=as_json))
    logging.getLogger("corral.test").info("request", extra={"fields": {"route": "/a", "ms": 1.5}})
    (line,) = (tmp_path / "log").read_text("utf-8").splitlines()
    if as_json:
        event = json.loads(line)
        assert (event["message"], event["route"], event["ms"]) == ("request", "/a", 1.5)
    else:
        assert line.endswith("info    request route=/a ms=1.5")
