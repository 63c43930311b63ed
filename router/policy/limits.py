"""What a key may use in a minute and at once. Buckets are pure; a LimitStore keeps them, here or for several gateways.

A bucket holds a minute's worth and fills all the time. A request takes its estimate of tokens beforehand (reserve) and
gives back or owes the difference to the real count afterwards (settle): requests that come at once cannot all slip
through before the first is counted. Called by call.py. Invariant: what one request reserved is settled exactly once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from router.config import KeyConfig

MINUTE = 60.0


@dataclass(slots=True)
class Bucket:
    """Fills with `per_minute` units a minute, up to a minute's worth; below 0 it owes."""

    per_minute: float
    level: float
    since: float

    def fill(self, now: float) -> None:
        gained = max(now - self.since, 0.0) * self.per_minute / MINUTE
        self.level = min(self.level + gained, self.per_minute)
        self.since = now

    def wait(self, amount: float) -> float:
        """Seconds until it holds the amount, or is full if it never will."""
        return max(min(amount, self.per_minute) - self.level, 0.0) * MINUTE / self.per_minute


@dataclass(frozen=True, slots=True)
class Level:
    """What a client is told of one limit: the limit, what is left, and when all of it will be there again."""

    limit: int
    remaining: int
    reset: float  # seconds

    @classmethod
    def of(cls, per_minute: int | None, level: float) -> "Level | None":
        """Of a bucket with this much in it; None for no limit."""
        if per_minute is None:
            return None
        return cls(per_minute, max(math.floor(level), 0), max(per_minute - level, 0.0) * MINUTE / per_minute)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a reservation; `refused` names the limit that is used up."""

    refused: str | None = None
    retry_after: float = 0.0  # seconds
    requests: Level | None = None
    tokens: Level | None = None


class LimitStore(Protocol):
    """Keeps the buckets of keys. Amounts are in tokens."""

    async def reserve(self, key: KeyConfig, num_tokens: int) -> Verdict:
        """Takes one request, the tokens and a place among the concurrent ones; all of them or nothing."""
        ...

    async def settle(self, key: KeyConfig, num_reserved: int, num_used: int) -> None:
        """Puts the real count in the place of the reserved one and frees the place."""
        ...

    async def close(self) -> None:
        """Ends what it does beside requests."""
        ...


@dataclass(slots=True)
class _Usage:
    requests: Bucket | None
    tokens: Bucket | None
    num_open: int = 0


@dataclass(slots=True)
class MemoryLimits:
    """The buckets of this process."""

    clock: Callable[[], float]
    _usages: dict[str, _Usage] = field(default_factory=dict)

    async def reserve(self, key: KeyConfig, num_tokens: int) -> Verdict:
        usage = self._usage(key)
        refused = _refusal(key, usage, num_tokens)
        if refused is None:
            usage.num_open += 1
            if usage.requests:
                usage.requests.level -= 1
            if usage.tokens:
                usage.tokens.level -= num_tokens
        name, wait = refused or (None, 0.0)
        return Verdict(name, wait, _level(usage.requests), _level(usage.tokens))

    async def settle(self, key: KeyConfig, num_reserved: int, num_used: int) -> None:
        usage = self._usage(key)
        usage.num_open -= 1
        if usage.tokens:
            usage.tokens.level = min(usage.tokens.level + num_reserved - num_used, usage.tokens.per_minute)

    async def close(self) -> None:
        pass

    def _usage(self, key: KeyConfig) -> _Usage:
        """A key's buckets, filled up to now; limits that a reload has changed hold from here on."""
        now = self.clock()
        usage = self._usages.setdefault(key.name, _Usage(None, None))
        usage.requests = _filled(usage.requests, key.requests_per_minute, now)
        usage.tokens = _filled(usage.tokens, key.tokens_per_minute, now)
        return usage


def _filled(bucket: Bucket | None, per_minute: int | None, now: float) -> Bucket | None:
    if per_minute is None:
        return None
    if bucket is None or bucket.per_minute != per_minute:
        return Bucket(per_minute, per_minute, now)
    bucket.fill(now)
    return bucket


def _refusal(key: KeyConfig, usage: _Usage, num_tokens: int) -> tuple[str, float] | None:
    """The limit in the way and the seconds until it is not; a request of more than a minute's tokens needs them all."""
    if key.concurrent is not None and usage.num_open >= key.concurrent:
        return f"{key.concurrent} requests at the same time", 1.0
    if usage.requests and (wait := usage.requests.wait(1)) > 0:
        return f"{key.requests_per_minute} requests per minute", wait
    if usage.tokens and (wait := usage.tokens.wait(num_tokens)) > 0:
        return f"{key.tokens_per_minute} tokens per minute", wait
    return None


def _level(bucket: Bucket | None) -> Level | None:
    return Level.of(round(bucket.per_minute), bucket.level) if bucket else None


def rate_headers(verdict: Verdict) -> dict[str, str]:
    """OpenAI's x-ratelimit headers."""
    headers = {}
    for name, level in (("requests", verdict.requests), ("tokens", verdict.tokens)):
        if level is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(level.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(level.remaining)
            headers[f"x-ratelimit-reset-{name}"] = shown_seconds(level.reset)
    return headers


def shown_seconds(seconds: float) -> str:
    """As OpenAI writes it: "6m0s", "1.5s", "20ms"."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"
