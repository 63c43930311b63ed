"""The answer to one request as it goes out: what all layers of app.py look at, and add headers to.

boundary.Envelope makes one for each request and puts it into scope["state"]["answer"]. Invariant: every message of an
answer passes it, once, whatever the number of layers that want to know of it.
"""

from collections.abc import Callable, Iterable, Mapping

from starlette.types import Message, Send

Header = tuple[bytes, bytes]


def raw(headers: Mapping[str, str]) -> list[Header]:
    """Headers as they are sent."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


class Answer:
    """What was sent so far."""

    __slots__ = ("_last_headers", "_send", "headers", "is_complete", "status")

    def __init__(self, send: Send, last_headers: Callable[[], Iterable[Header]]) -> None:
        """`last_headers`: more of them, as they are at the time when it begins."""
        self.status: int | None = None  # None: nothing was sent
        self.is_complete = False
        self.headers: list[Header] = []  # that it will have beside its own
        self._send = send
        self._last_headers = last_headers

    @property
    def has_begun(self) -> bool:
        return self.status is not None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self.headers, *self._last_headers()]
        elif not message.get("more_body", False):
            self.is_complete = True
        await self._send(message)
