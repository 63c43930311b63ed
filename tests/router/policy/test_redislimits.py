"""Limits that several gateways share, kept by a real Redis."""

import asyncio
import logging
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from router.config import KeyConfig
from router.errors import CommandError
from router.keys.keys import key_digest
from router.policy.limits import Level, Verdict
from router.policy.redislimits import RedisLimits
from tests.router.gateways import config, running
from tests.router.mocks import DEADLINE
from tests.servers import require

pytestmark = pytest.mark.anyio


class Redis:
    """A Redis on a socket file, for tests to start and stop."""

    def __init__(self, folder: Path) -> None:
        self.url = f"unix://{folder}/redis.sock"
        self._command = ["redis-server", "--port", "0", "--unixsocket", f"{folder}/redis.sock", "--save", ""]
        self._command += ["--dir", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE)
        assert self._process.stdout
        while b"ready to accept connections" not in self._process.stdout.readline():
            assert self._process.poll() is None

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate(timeout=DEADLINE)
            self._process = None


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    require("redis-server")
    server = Redis(tmp_path)
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def two(redis: Redis) -> AsyncIterator[tuple[RedisLimits, RedisLimits]]:
    """The limits as two gateways have them."""
    made = RedisLimits(redis.url, lambda: 0.0), RedisLimits(redis.url, lambda: 0.0)
    yield made
    for each in made:
        await each.close()


async def test_two_gateways_count_the_same_requests_and_tokens(redis: Redis) -> None:
    key = KeyConfig("k", b"", requests_per_minute=3, tokens_per_minute=100)
    async with two(redis) as (first, second):
        verdict = await first.reserve(key, 40)
        assert verdict.refused is None
        assert verdict.requests and verdict.requests.remaining == 2
        assert verdict.tokens and verdict.tokens.remaining == 60
        refused = await second.reserve(key, 70)
        assert refused.refused == "100 tokens per minute"
        assert 5 < refused.retry_after <= 6
        assert (await second.reserve(key, 50)).refused is None
        assert (await first.reserve(key, 0)).refused is None
        assert (await second.reserve(key, 0)).refused == "3 requests per minute"


async def test_settling_gives_back_or_owes_wherever_it_was_reserved(redis: Redis) -> None:
    key = KeyConfig("k", b"", tokens_per_minute=100)
    async with two(redis) as (first, second):
        await first.reserve(key, 90)
        await first.settle(key, 90, 10)
        assert (await second.reserve(key, 80)).refused is None
        await second.settle(key, 80, 200)
        refused = await first.reserve(key, 1)
        assert refused.tokens == Level(100, 0, pytest.approx(126, abs=1))
        assert refused.retry_after == pytest.approx(66.6, abs=1)


async def test_places_are_shared_and_free_again_after_settling(redis: Redis) -> None:
    key = KeyConfig("k", b"", concurrent=2)
    async with two(redis) as (first, second):
        await first.reserve(key, 0)
        await second.reserve(key, 0)
        assert (await first.reserve(key, 0)).refused == "2 requests at the same time"
        await second.settle(key, 0, 0)
        assert (await first.reserve(key, 0)).refused is None
        await first.settle(key, 0, 0)
        await first.settle(key, 0, 0)
        assert [(await second.reserve(key, 0)).refused for _ in range(2)] == [None, None]


async def test_places_of_a_gateway_that_died_come_back(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.policy.redislimits.LEASE_SECONDS", 0)
    key = KeyConfig("k", b"", concurrent=1)
    async with two(redis) as (first, second):
        assert (await first.reserve(key, 0)).refused is None
        assert (await second.reserve(key, 0)).refused is None


async def reserved(limits: RedisLimits, key: KeyConfig, num_tokens: int = 0) -> Verdict:
    """The first verdict that refuses nothing."""
    async with asyncio.timeout(DEADLINE):
        while True:
            verdict = await limits.reserve(key, num_tokens)
            if verdict.refused is None:
                return verdict
            await asyncio.sleep(0.01)


async def test_a_pause_of_redis_at_settling_keeps_no_place(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.policy.redislimits.REPEAT_SECONDS", 0.05)
    key = KeyConfig("k", b"", concurrent=1)
    async with two(redis) as (first, second):
        assert (await first.reserve(key, 0)).refused is None
        redis.pause()
        await first.settle(key, 0, 0)
        redis.go_on()
        await reserved(second, key)


async def test_a_settlement_sent_twice_gives_back_once(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.policy.redislimits.REPEAT_SECONDS", 0.05)
    key = KeyConfig("k", b"", concurrent=2, tokens_per_minute=60)
    async with two(redis) as (first, second):
        for _ in range(2):
            assert (await first.reserve(key, 30)).refused is None
        redis.pause()
        await first.settle(key, 30, 10)  # Redis finds it several times when it goes on
        redis.go_on()
        verdict = await reserved(second, key)
    assert verdict.tokens is not None
    assert 20 <= verdict.tokens.remaining < 40


async def test_a_reservation_that_redis_reads_too_late_keeps_no_place(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.policy.redislimits.REPEAT_SECONDS", 0.05)
    key = KeyConfig("k", b"", concurrent=1)
    async with two(redis) as (first, second):
        await first.reserve(key, 0)
        await first.settle(key, 0, 0)
        redis.pause()
        assert (await first.reserve(key, 0)).refused is None
        redis.go_on()
        await reserved(second, key)


async def test_a_gateway_that_lives_keeps_its_places(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.policy.redislimits.LEASE_SECONDS", 2)
    monkeypatch.setattr("router.policy.redislimits.RENEW_SECONDS", 0.1)
    key, other = KeyConfig("k", b"", concurrent=1), KeyConfig("other", b"", concurrent=1)
    async with two(redis) as (first, second):
        await first.reserve(key, 0)
        third = RedisLimits(redis.url, lambda: 0.0)
        await third.reserve(other, 0)
        await third.close()  # as if it had died
        await reserved(second, other)
        assert (await second.reserve(key, 0)).refused == "1 requests at the same time"


async def test_a_changed_limit_holds_at_once_and_keys_do_not_share(redis: Redis) -> None:
    async with two(redis) as (first, second):
        await first.reserve(KeyConfig("k", b"", requests_per_minute=1), 0)
        assert (await second.reserve(KeyConfig("k", b"", requests_per_minute=1), 0)).refused
        assert (await second.reserve(KeyConfig("other", b"", requests_per_minute=1), 0)).refused is None
        assert (await second.reserve(KeyConfig("k", b"", requests_per_minute=2), 0)).refused is None


async def test_while_redis_is_away_limits_hold_for_each_gateway_and_the_log_says_so_once(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "corral.limits")
    key = KeyConfig("k", b"", requests_per_minute=1, concurrent=1)
    async with two(redis) as (first, second):
        assert (await first.reserve(key, 0)).refused is None
        redis.stop()
        await first.settle(key, 0, 0)
        for each in (first, second):
            assert (await each.reserve(key, 0)).refused is None
            assert (await each.reserve(key, 0)).refused is not None
            await each.settle(key, 0, 0)
        redis.start()
        assert (await first.reserve(key, 0)).refused is None
        assert (await second.reserve(key, 0)).refused == "1 requests at the same time"
    away, back = "Redis cannot be asked", "Redis is back; limits hold for all gateways"
    messages = [record.getMessage() for record in caplog.records]
    assert [sum(message.startswith(each) for message in messages) for each in (away, back)] == [2, 2]


async def test_two_gateways_with_one_redis_refuse_what_is_too_much_for_both(redis: Redis) -> None:
    key = KeyConfig("team", key_digest(b"secret"), requests_per_minute=2)
    given = config("tiny", keys=(key,), redis=redis.url)
    headers = {"Authorization": "Bearer secret"}
    async with running(given, headers=headers) as first, running(given, headers=headers) as second:
        statuses = [
            (await each.client.post("/completion", json={"prompt": "x"})).status_code for each in (first, second, first)
        ]
    assert statuses == [200, 200, 429]


async def test_an_address_that_is_none_ends_the_start_with_one_line() -> None:
    with pytest.raises(CommandError, match="--redis: "):
        RedisLimits("nonsense", lambda: 0.0)


async def test_a_redis_that_never_was_there_lets_requests_pass() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    limits = RedisLimits(f"redis://127.0.0.1:{port}", lambda: 0.0)
    assert (await limits.reserve(KeyConfig("k", b"", requests_per_minute=1), 0)).refused is None
    await limits.close()
