"""Where a test's request gets its events."""

import threading
from dataclasses import dataclass, field

from worker.generation import Failed, Finished, Token


@dataclass
class Inbox:
    """What one request got; the engine thread fills it."""

    events: list = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def put(self, event) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def wait_for(self, condition, timeout: float = 60) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self), timeout), f"only got {self.events}"

    def result(self):
        self.wait_for(lambda inbox: inbox.has_ended)
        return self.events[-1]

    @property
    def has_ended(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], Finished | Failed)

    @property
    def tokens(self) -> list[int]:
        return [event.token for event in self.events if isinstance(event, Token)]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Token))
