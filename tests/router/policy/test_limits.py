import pytest

from router.config import KeyConfig
from router.policy.limits import Level, MemoryLimits, Verdict, rate_headers, shown_seconds

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> MemoryLimits:
    return MemoryLimits(clock)


async def test_requests_per_minute_fill_up_again(limits: MemoryLimits, clock: Clock) -> None:
    key = KeyConfig("k", b"", requests_per_minute=2)
    assert [(await limits.reserve(key, 0)).refused for _ in range(3)] == [None, None, "2 requests per minute"]
    assert (await limits.reserve(key, 0)).retry_after == pytest.approx(30)
    clock.now = 29.9
    assert (await limits.reserve(key, 0)).refused
    clock.now = 30.1
    assert (await limits.reserve(key, 0)).refused is None


async def test_tokens_are_reserved_before_they_are_known(limits: MemoryLimits) -> None:
    """Two requests that come at once cannot both slip through before either is counted."""
    key = KeyConfig("k", b"", tokens_per_minute=100)
    assert (await limits.reserve(key, 60)).refused is None
    refused = await limits.reserve(key, 60)
    assert refused.refused == "100 tokens per minute"
    assert refused.retry_after == pytest.approx(12)


async def test_what_was_reserved_too_much_comes_back(limits: MemoryLimits) -> None:
    key = KeyConfig("k", b"", tokens_per_minute=100)
    await limits.reserve(key, 90)
    await limits.settle(key, 90, 10)
    assert (await limits.reserve(key, 90)).tokens == Level(100, 0, 60)


async def test_what_was_reserved_too_little_is_owed(limits: MemoryLimits, clock: Clock) -> None:
    key = KeyConfig("k", b"", tokens_per_minute=60)
    await limits.reserve(key, 10)
    await limits.settle(key, 10, 120)
    assert (await limits.reserve(key, 1)).retry_after == pytest.approx(61)
    clock.now = 61
    assert (await limits.reserve(key, 1)).refused is None


async def test_a_request_larger_than_a_minutes_tokens_needs_all_of_them(limits: MemoryLimits, clock: Clock) -> None:
    key = KeyConfig("k", b"", tokens_per_minute=100)
    assert (await limits.reserve(key, 1000)).refused is None
    await limits.settle(key, 1000, 30)
    assert (await limits.reserve(key, 1000)).refused
    clock.now = 18
    assert (await limits.reserve(key, 1000)).refused is None


async def test_a_place_among_the_concurrent_ones_is_free_again_after_settling(limits: MemoryLimits) -> None:
    key = KeyConfig("k", b"", concurrent=1)
    assert (await limits.reserve(key, 0)).refused is None
    assert (await limits.reserve(key, 0)).refused == "1 requests at the same time"
    await limits.settle(key, 0, 0)
    assert (await limits.reserve(key, 0)).refused is None


async def test_a_refused_request_takes_nothing(limits: MemoryLimits) -> None:
    key = KeyConfig("k", b"", requests_per_minute=5, tokens_per_minute=10)
    await limits.reserve(key, 10)
    for _ in range(3):
        assert (await limits.reserve(key, 5)).refused == "10 tokens per minute"
    verdict = await limits.reserve(key, 0)
    assert verdict.requests and verdict.requests.remaining == 3


async def test_keys_do_not_share_and_a_changed_limit_holds_at_once(limits: MemoryLimits) -> None:
    await limits.reserve(KeyConfig("k", b"", requests_per_minute=1), 0)
    assert (await limits.reserve(KeyConfig("other", b"", requests_per_minute=1), 0)).refused is None
    assert (await limits.reserve(KeyConfig("k", b"", requests_per_minute=2), 0)).refused is None


def test_headers_are_openais() -> None:
    assert rate_headers(Verdict(requests=Level(60, 59, 1.0), tokens=Level(1000, 0, 360))) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert rate_headers(Verdict()) == {}
    assert [shown_seconds(each) for each in (0.02, 1.5, 61.25)] == ["20ms", "1.5s", "1m1.25s"]
