"""One streamed completion, of a chat or of a text, over a plain socket, with the arrival time of every piece of text.

Called by load.py. It is lean because it shares the processors with what it measures. Invariant: an exchange counts as
complete only if the server said why it stopped and ended the stream in order.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools


@dataclass(slots=True)
class Exchange:
    """What came of one request. Times are seconds of the monotonic clock."""

    started: float
    ended: float = 0.0
    arrivals: list[float] = field(default_factory=list)  # of events that carry text
    num_prompt: int = 0
    num_generated: int = 0
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    host: str
    port: int
    secure: bool
    path: str
    authority: str

    @classmethod
    def of(cls, url: str, path: str) -> "Target":
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        return cls(parts.hostname or "127.0.0.1", port, secure, parts.path.rstrip("/") + path, parts.netloc)


class _Reading:
    """The callbacks of the HTTP parser, and events cut out of the body."""

    def __init__(self) -> None:
        self.status = 0
        self.complete = False
        self.error_body = b""
        self._parser = httptools.HttpResponseParser(self)
        self._rest = b""
        self._bodies: list[bytes] = []

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._bodies.append(body)

    def on_message_complete(self) -> None:
        self.complete = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The data of the events that are now whole."""
        self._parser.feed_data(data)
        received = b"".join(self._bodies)
        self._bodies.clear()
        if self.status != 200:
            self.error_body += received
            return
        *lines, self._rest = (self._rest + received).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


async def exchange(target: Target, body: dict[str, Any], api_key: str = "") -> Exchange:
    """Sends the request on a connection of its own and reads the stream to its end."""
    found = Exchange(time.monotonic())
    writer = None
    try:
        context = ssl.create_default_context() if target.secure else None
        reader, writer = await asyncio.open_connection(target.host, target.port, ssl=context)
        writer.write(_request(target, body, api_key))
        await _read(reader, found)
    except (OSError, ValueError, KeyError, httptools.HttpParserError) as error:
        found.fault = f"{type(error).__name__}: {error}"
    finally:
        if writer is not None:
            writer.close()
    found.ended = time.monotonic()
    return found


def _request(target: Target, body: dict[str, Any], api_key: str) -> bytes:
    payload = json.dumps(body).encode()
    key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
    head = (
        f"POST {target.path} HTTP/1.1\r\nHost: {target.authority}\r\n{key}"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + payload


async def _read(reader: asyncio.StreamReader, found: Exchange) -> None:
    reading = _Reading()
    reason, done = "", False
    while not reading.complete and (data := await reader.read(65536)):
        now = time.monotonic()
        for event in reading.feed(data):
            if event == b"[DONE]":
                done = True
                continue
            reason = _take(json.loads(event), found, now) or reason
    if reading.status != 200:
        found.fault = f"status {reading.status}: {reading.error_body[:200].decode(errors='replace')}"
    elif not found.fault and not (reason and done):
        found.fault = "the stream broke off"


def _take(event: dict[str, Any], found: Exchange, now: float) -> str:
    """Notes what an event says; returns the reason for finishing, if it carries one."""
    if "error" in event:
        found.fault = str(event["error"].get("message", event["error"]))
    if usage := event.get("usage"):
        found.num_prompt, found.num_generated = usage["prompt_tokens"], usage["completion_tokens"]
    for choice in event.get("choices", ()):
        if choice.get("delta", {}).get("content") or choice.get("text"):
            found.arrivals.append(now)
        if choice.get("finish_reason"):
            return str(choice["finish_reason"])
    return ""
