import asyncio

import pytest

from router.supervision.roster import Roster
from tests.router.mocks import until

pytestmark = pytest.mark.anyio


class Hand:
    """A worker that ends when it is told to, or fails."""

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.name = f"a/{index}"
        self.calls_ended = asyncio.Event()
        self.ending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.graces: list[float] = []

    async def run(self) -> None:
        await self.ending

    async def retire(self) -> None:
        await self.calls_ended.wait()

    def stop(self, grace: float) -> None:
        self.graces.append(grace)
        self.calls_ended.set()
        if not self.ending.done():
            self.ending.set_result(None)


def roster(left: list[Hand]) -> Roster[Hand]:
    async def note(hand: Hand) -> None:
        left.append(hand)

    return Roster[Hand](note)


async def test_who_retires_stands_beside_until_its_calls_and_then_its_task_have_ended() -> None:
    left, hand = list[Hand](), Hand()
    made = roster(left)
    made.start(hand)
    assert ([*made], made.beside) == ([hand], [])
    made.retire(hand)
    assert made.beside == [hand]
    hand.calls_ended.set()
    await asyncio.sleep(0)
    assert ([*made], made.beside, left) == ([hand], [hand], [])
    hand.ending.set_result(None)
    await until(lambda: left == [hand])
    assert ([*made], made.beside) == ([], [])


async def test_one_whose_task_fails_is_forgotten_and_told_of_all_the_same() -> None:
    left, hand = list[Hand](), Hand()
    made = roster(left)
    made.start(hand)
    made.retire(hand)
    hand.calls_ended.set()
    hand.ending.set_exception(OSError("no more"))
    await made.stop(0)
    assert ([*made], left) == ([], [hand])


async def test_who_warms_up_is_beside_until_it_serves() -> None:
    made = roster([])
    first, second = Hand(1), Hand(0)
    for hand in (first, second):
        made.start(hand, serving=False)
    assert made.beside == [second, first], "by index"
    made.serve(first)
    assert made.beside == [second]
    await made.stop(0)


async def test_stopping_reaches_all_and_waits_for_those_that_are_seen_off() -> None:
    left = list[Hand]()
    made = roster(left)
    serving, leaving = Hand(0), Hand(1)
    for hand in (serving, leaving):
        made.start(hand)
    made.retire(leaving)
    await made.stop(2.5)
    assert (serving.graces, leaving.graces, left) == ([2.5], [2.5], [leaving])
    assert serving.ending.done()
