"""The log: one line of text or one JSON object per event, on standard error or in a file.

Set up by serve.py. An event may bring `fields` of its own (`extra={"fields": {...}}`): members of the object, or
name=value behind the text. Invariant: one event is one line, whatever it quotes; control characters are written out.
"""

import logging
import sys
from datetime import UTC, datetime

import orjson

from router.config import LogConfig
from router.errors import CommandError

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 10} | {
    code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


class _StandardError:
    """Standard error as it is at the time of writing, so that a progress bar can hold the line below the log."""

    def write(self, text: str) -> None:
        sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in getattr(record, "fields", {}).items())
        line = f"{_time(record)} {record.levelname.lower():7} {record.getMessage()}{fields}"
        return _escaped(line, "\\n") + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().encode("utf-8", "replace").decode(),
        }
        event |= getattr(record, "fields", {})
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(event).decode()


def configure(config: LogConfig) -> None:
    """Sends everything to one place. Raises CommandError if the file cannot be written."""
    handler: logging.Handler
    if config.file is None:
        handler = logging.StreamHandler(_StandardError())
    else:
        try:
            handler = logging.FileHandler(config.file, encoding="utf-8")
        except OSError as error:
            raise CommandError(f"cannot write --log-file {config.file}: {error.strerror}") from None
    handler.setFormatter(_Json() if config.json else _Text())
    logging.basicConfig(level=config.level, handlers=[handler], force=True)
    for noisy in ("uvicorn.error", "asyncio", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(max(logging.getLevelName(config.level), logging.WARNING))


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _escaped(text: str, newline: str) -> str:
    return text.translate(_ESCAPES).replace("\n", newline)
