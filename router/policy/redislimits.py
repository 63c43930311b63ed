"""The buckets of keys in a Redis, so that several gateways share them: a LimitStore like limits.MemoryLimits.

Made by gateway.py for --redis URL; called by call.py. Each reservation is one script that Redis runs by itself, with
Redis' own clock, so that gateways need not agree on the time. A Redis that cannot be asked lets requests pass, up to
this gateway's own buckets: a limit that counts too little for a while is better than an API that is down. What could
not be settled is settled in order once Redis answers. Every request has a place, which is a lease that its gateway
renews, so that those of a gateway that died come back. Whether an unanswered script was run cannot be known; by the
place, whose name is used once, each of them takes effect once however often it is sent.

Invariant: no request waits for Redis longer than twice TIMEOUT, and none fails because of it.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from router.config import KeyConfig
from router.errors import CommandError
from router.policy.limits import Level, MemoryLimits, Verdict

TIMEOUT = 0.25  # seconds for Redis to answer
LEASE_SECONDS = 60  # after which a place that nobody renewed is free again
RENEW_SECONDS = 15.0  # between two renewals by a gateway that lives
REPEAT_SECONDS = 1.0  # between two attempts to settle
MAX_UNSETTLED = 10_000  # of which Redis has not heard; the places of older ones end with their leases
PREFIX = "corral:limits"

# KEYS: requests, tokens, places. ARGV: requests per minute, tokens per minute, concurrent (-1: no limit), tokens to
# take, the place's name, its lease. Takes nothing if the place is taken: by the same script, sent before.
# Returns the limit in the way ("" for none), the seconds to wait, the levels.
_RESERVE = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1e6
local function filled(key, per_minute)
    local kept = redis.call('HMGET', key, 'level', 'since', 'per_minute')
    if tonumber(kept[3]) ~= per_minute then return per_minute end
    return math.min(kept[1] + math.max(now - kept[2], 0) * per_minute / 60, per_minute)
end
local function wait(level, amount, per_minute)
    return math.max(math.min(amount, per_minute) - level, 0) * 60 / per_minute
end
local function keep(key, level, per_minute)
    redis.call('HSET', key, 'level', tostring(level), 'since', string.format('%.6f', now), 'per_minute', per_minute)
    redis.call('EXPIRE', key, 60 + math.ceil(math.max(0, (per_minute - level) * 60 / per_minute)))
end
local rpm, tpm, concurrent, amount = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local requests = rpm >= 0 and filled(KEYS[1], rpm) or 0
local tokens = tpm >= 0 and filled(KEYS[2], tpm) or 0
local refused, seconds = '', 0
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
if redis.call('ZSCORE', KEYS[3], ARGV[5]) then
    refused = ''
elseif concurrent >= 0 and redis.call('ZCARD', KEYS[3]) >= concurrent then
    refused, seconds = 'concurrent', 1
elseif rpm >= 0 and wait(requests, 1, rpm) > 0 then
    refused, seconds = 'requests', wait(requests, 1, rpm)
elseif tpm >= 0 and wait(tokens, amount, tpm) > 0 then
    refused, seconds = 'tokens', wait(tokens, amount, tpm)
else
    requests, tokens = requests - 1, tokens - amount
    redis.call('ZADD', KEYS[3], now + ARGV[6], ARGV[5])
    redis.call('EXPIRE', KEYS[3], ARGV[6])
    if rpm >= 0 then keep(KEYS[1], requests, rpm) end
    if tpm >= 0 then keep(KEYS[2], tokens, tpm) end
end
return {refused, tostring(seconds), tostring(requests), tostring(tokens)}
"""

# KEYS: tokens, places. ARGV: tokens to give back (negative: owed), the place's name. Nothing for a place that is free.
_SETTLE = """
if redis.call('ZREM', KEYS[2], ARGV[2]) == 0 then return 0 end
local kept = redis.call('HMGET', KEYS[1], 'level', 'per_minute')
if kept[1] then
    redis.call('HSET', KEYS[1], 'level', tostring(math.min(kept[1] + ARGV[1], tonumber(kept[2]))))
end
return 1
"""

# KEYS: places. ARGV: the lease, the places' names. Not for places that are free: one may have been settled meanwhile.
_RENEW = """
local clock = redis.call('TIME')
for index = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', clock[1] + clock[2] / 1e6 + ARGV[1], ARGV[index]) end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
"""

log = logging.getLogger("corral.limits")


class Script(Protocol):
    """A script that Redis knows."""

    def __call__(self, keys: list[str], args: list[Any]) -> Awaitable[Any]: ...


class _Settlement(NamedTuple):
    """What Redis shall hear of the end of one request."""

    key: str
    num_returned: int  # tokens; negative: owed
    place: str


class RedisLimits:
    """The buckets of all gateways with the same Redis."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        """Raises CommandError if the URL is none or the package is not installed."""
        self._client, self._failures = connected(url)
        self._reserve: Script = self._client.register_script(_RESERVE)
        self._settle: Script = self._client.register_script(_SETTLE)
        self._renew: Script = self._client.register_script(_RENEW)
        self._own = MemoryLimits(clock)  # while Redis is away
        self._places: dict[str, list[str]] = {}  # by key; "" for a place among this gateway's own
        self._unsettled: deque[_Settlement] = deque(maxlen=MAX_UNSETTLED)
        self._repeating: asyncio.Task[None] | None = None  # while there are such
        self._renewing: asyncio.Task[None] | None = None
        self._away = False

    async def reserve(self, key: KeyConfig, num_tokens: int) -> Verdict:
        """See LimitStore."""
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._keep_renewing(), name="leases in Redis")
        place = secrets.token_hex(8)
        limits = [_bound(key.requests_per_minute), _bound(key.tokens_per_minute), _bound(key.concurrent)]
        names = [_name(key.name, part) for part in ("requests", "tokens", "places")]
        try:
            refused, seconds, requests, tokens = await self._reserve(
                keys=names, args=[*limits, num_tokens, place, LEASE_SECONDS]
            )
        except self._failures as error:
            self._note(error)
            self._settle_later(_Settlement(key.name, num_tokens, place))  # Redis may have run it, or will
            verdict, place = await self._own.reserve(key, num_tokens), ""
        else:
            self._note(None)
            verdict = _verdict(key, refused.decode(), float(seconds), float(requests), float(tokens))
        if verdict.refused is None:
            self._places.setdefault(key.name, []).append(place)
        return verdict

    async def settle(self, key: KeyConfig, num_reserved: int, num_used: int) -> None:
        """See LimitStore. Places of one key are alike: it does not matter which of them is given back."""
        held = self._places[key.name]
        place = held.pop()
        if not held:
            del self._places[key.name]
        settlement = _Settlement(key.name, num_reserved - num_used, place)
        if not place:
            await self._own.settle(key, num_reserved, num_used)
        elif self._unsettled or not await self._settled(settlement):
            self._settle_later(settlement)

    async def close(self) -> None:
        for task in (self._repeating, self._renewing):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await self._client.aclose()

    async def _settled(self, settlement: _Settlement) -> bool:
        """Whether Redis has heard of it."""
        key, num_returned, place = settlement
        names = [_name(key, part) for part in ("tokens", "places")]
        try:
            await self._settle(keys=names, args=[num_returned, place])
        except self._failures as error:
            self._note(error)
            return False
        return True

    def _settle_later(self, settlement: _Settlement) -> None:
        self._unsettled.append(settlement)
        if self._repeating is None or self._repeating.done():
            self._repeating = asyncio.create_task(self._settle_all(), name="settlements for Redis")

    async def _settle_all(self) -> None:
        """Until Redis has heard of all, the oldest first."""
        while self._unsettled:
            oldest = self._unsettled[0]
            if not await self._settled(oldest):
                await asyncio.sleep(REPEAT_SECONDS)
            elif self._unsettled[0] is oldest:  # else it has made room for a newer one meanwhile
                self._unsettled.popleft()

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            for name in list(self._places):
                held = [place for place in self._places.get(name, ()) if place]
                if held:
                    await self._renewed(name, held)

    async def _renewed(self, name: str, held: list[str]) -> None:
        """The leases of a key's places begin anew."""
        try:
            await self._renew(keys=[_name(name, "places")], args=[LEASE_SECONDS, *held])
        except self._failures as error:
            self._note(error)

    def _note(self, error: Exception | None) -> None:
        """Says once that Redis is away, and once that it is back."""
        away = error is not None
        if away and not self._away:
            log.warning("Redis cannot be asked (%s); limits hold for this gateway alone", type(error).__name__)
        elif self._away and not away:
            log.info("Redis is back; limits hold for all gateways")
        self._away = away


def connected(url: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """A client, which connects when it is first used, and what it raises when it cannot."""
    try:
        from redis import asyncio as redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError
    except ImportError:
        raise CommandError("--redis needs a package that is not installed: pip install 'corral[redis]'", 2) from None
    try:
        retry = Retry(NoBackoff(), 1)  # on a fresh connection, where Redis has closed the old one
        client = redis.Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=retry)
    except ValueError as error:
        raise CommandError(f"--redis: {error}", 2) from None  # without the URL, which may hold a password
    return client, (RedisError, OSError, TimeoutError)


def _bound(limit: int | None) -> int:
    return -1 if limit is None else limit


def _name(key: str, part: str) -> str:
    """All parts of one key in one slot, where Redis is a cluster."""
    return f"{PREFIX}:{{{key}}}:{part}"


def _verdict(key: KeyConfig, refused: str, seconds: float, requests: float, tokens: float) -> Verdict:
    names = {
        "concurrent": f"{key.concurrent} requests at the same time",
        "requests": f"{key.requests_per_minute} requests per minute",
        "tokens": f"{key.tokens_per_minute} tokens per minute",
    }
    return Verdict(
        names.get(refused),
        seconds,
        Level.of(key.requests_per_minute, requests),
        Level.of(key.tokens_per_minute, tokens),
    )
