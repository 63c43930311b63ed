import asyncio

import pytest

from router.supervision.tail import Tail

pytestmark = pytest.mark.anyio


def test_only_the_newest_lines_are_kept() -> None:
    tail = Tail(3)
    for number in range(5):
        tail.add(str(number))
    assert tail.last(10) == ("2", "3", "4")
    assert tail.last(1) == ("4",)
    assert tail.last(0) == ()


async def test_a_follower_gets_the_newest_lines_and_every_one_to_come() -> None:
    tail = Tail()
    tail.add("old")
    tail.add("new")
    lines = tail.follow(1)
    assert await anext(lines) == "new"
    waiting = asyncio.ensure_future(anext(lines))
    await asyncio.sleep(0)
    assert not waiting.done()
    tail.add("newer")
    tail.add("newest")
    assert await waiting == "newer"
    assert await anext(lines) == "newest"


async def test_a_follower_that_is_too_slow_is_told_how_many_lines_it_missed() -> None:
    tail = Tail(2)
    tail.add("first")
    lines = tail.follow(1)
    assert await anext(lines) == "first"
    for number in range(5):
        tail.add(str(number))
    assert [await anext(lines) for _ in range(3)] == ["(3 lines were lost on the way)", "3", "4"]


async def test_the_end_lets_followers_go_after_the_last_line() -> None:
    tail = Tail()
    tail.add("a")

    async def collected() -> list[str]:
        return [line async for line in tail.follow(5)]

    following = asyncio.create_task(collected())
    await asyncio.sleep(0)
    tail.add("b")
    tail.end()
    assert await following == ["a", "b"]
