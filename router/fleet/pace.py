"""How fast counts of tokens have grown lately. Pure: times come in as arguments, in seconds.

Kept by tally.py for every worker and every model, told by /metrics, GET /models, `corral ps` and `top`. Invariant: what
has not grown within a window has the rate 0 there, whatever it has done before.
"""

from collections import deque
from typing import NamedTuple

RECENT = 5.0  # seconds that count for what is shown to people
WINDOW = 60.0  # seconds that count for what is scraped
SPACING = 0.5  # seconds between looks that are remembered
SHORTEST = 1.0  # seconds to which tokens belong at least: a few that come at once are no rate


class Look(NamedTuple):
    """Counts as they stood at a time."""

    time: float
    prompt_tokens: int = 0
    prompt_seconds: float = 0.0  # of computing, summed over the sequences
    tokens: int = 0  # of answers
    seconds: float = 0.0


class Throughput(NamedTuple):
    """Tokens for each second of computing them, as one sequence sees it."""

    prompt: float = 0.0
    answer: float = 0.0


class Pace:
    """Looks at counts that only grow, the oldest first: those within WINDOW, and the last one before it."""

    def __init__(self) -> None:
        self._looks: deque[Look] = deque()

    def note(self, look: Look) -> None:
        """Looks come in the order of their times."""
        looks = self._looks
        if len(looks) > 1 and look.time - looks[-2].time < SPACING:
            looks.pop()
        looks.append(look)
        while len(looks) > 1 and looks[1].time <= look.time - WINDOW:
            looks.popleft()

    def tokens_per_second(self, now: float) -> float:
        """Of answers, by the clock: from when they began to come within the last RECENT seconds until now."""
        looks = self._since(now - RECENT)
        began = next((index for index in range(len(looks) - 1) if looks[index + 1].tokens > looks[0].tokens), None)
        if began is None:
            return 0.0
        return (looks[-1].tokens - looks[0].tokens) / max(now - looks[began].time, SHORTEST)

    def throughput(self, now: float) -> Throughput:
        """Over the last WINDOW seconds."""
        looks = self._since(now - WINDOW)
        if not looks:
            return Throughput()
        first, last = looks[0], looks[-1]
        return Throughput(
            _rate(last.prompt_tokens - first.prompt_tokens, last.prompt_seconds - first.prompt_seconds),
            _rate(last.tokens - first.tokens, last.seconds - first.seconds),
        )

    def _since(self, begin: float) -> list[Look]:
        """The looks from then on, after the last one before."""
        looks = list(self._looks)
        before = [index for index, look in enumerate(looks) if look.time <= begin]
        return looks[before[-1] :] if before else looks


def _rate(number: float, seconds: float) -> float:
    return number / seconds if seconds > 0 else 0.0
