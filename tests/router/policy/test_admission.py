"""Admission with a clock that tests move, and waiters that are tasks of this loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from router.config import KeyConfig, LimitsConfig
from router.errors import Overloaded, QueueTimeout
from router.policy.admission import Admission, Place
from tests.router.mocks import until

pytestmark = pytest.mark.anyio
A, B = KeyConfig("a", b""), KeyConfig("b", b"")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Client:
    """One request: waits for its place, holds it until told to end."""

    def __init__(self, admission: Admission, key: KeyConfig = A, **options: object) -> None:
        self.place: Place | None = None
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._run(admission, key, **options))

    async def _run(
        self, admission: Admission, key: KeyConfig, limits: LimitsConfig | None = None, **options: object
    ) -> None:
        place = admission.place("m", key, 10, 1, limits or LimitsConfig(), lambda: 10, **options)  # type: ignore[arg-type]
        with await place as self.place:
            await self._end.wait()

    async def end(self) -> None:
        self._end.set()
        await self.task

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def standing(client: Client) -> tuple[int, float]:
    assert client.place is not None
    return client.place.position, client.place.waited


async def settle() -> None:
    """Lets every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def line(*keys: KeyConfig) -> AsyncIterator[tuple[Admission, list[Client], Clock]]:
    """A model with one place; the first client has it, the others wait."""
    clock = Clock()
    admission = Admission(clock)
    clients = [Client(admission, key) for key in keys]
    await settle()
    yield admission, clients, clock
    for client in clients:
        await client.leave()


async def test_a_free_place_is_given_at_once() -> None:
    async with line(A) as (_, [client], _):
        assert standing(client) == (0, 0.0)


async def test_waiters_go_in_turn_and_learn_how_long_they_waited() -> None:
    async with line(A, A, B) as (_, [first, second, third], clock):
        assert first.place and not second.place and not third.place
        clock.now = 3.0
        await first.end()
        await settle()
        assert standing(second) == (1, 3.0)
        assert third.place is None
        clock.now = 5.0
        await second.end()
        await settle()
        assert standing(third) == (2, 5.0)


async def test_who_leaves_the_line_is_not_waited_for() -> None:
    async with line(A, A, A) as (admission, [first, second, third], _):
        await second.leave()
        await first.end()
        await settle()
        assert third.place is not None
        await third.end()
        assert admission.is_idle("m")


async def test_a_place_given_to_somebody_who_leaves_at_that_moment_goes_to_the_next() -> None:
    async with line(A, A, A) as (_, [first, second, third], _):
        first._end.set()
        second.task.cancel()
        await settle()
        assert second.place is None
        assert third.place is not None


async def test_a_place_is_given_back_by_work_that_fails() -> None:
    admission = Admission(Clock())
    with pytest.raises(KeyError), await admission.place("m", A, 1, 1, LimitsConfig(), lambda: 1):
        raise KeyError
    with await admission.place("m", A, 1, 1, LimitsConfig(), lambda: 1) as place:
        assert place.position == 0


async def test_a_full_line_says_when_to_come_again() -> None:
    limits = LimitsConfig(queue=1)
    async with line(A, A) as (admission, [first, second], clock):
        clock.now = 7.0
        await first.end()
        await settle()
        assert second.place is not None
        waiting = Client(admission, A, limits=limits)
        await settle()
        refused = Client(admission, A, limits=limits)
        with pytest.raises(Overloaded, match=r"1 requests wait for model 'm' already") as raised:
            await refused.task
        assert raised.value.headers == {
            "Retry-After": "14",
            "x-corral-queue-position": "2",
            "x-corral-queue-wait-ms": "14000",
        }
        await waiting.leave()


async def test_a_patient_request_joins_a_full_line() -> None:
    async with line(A) as (admission, [first], _):
        patient = Client(admission, A, limits=LimitsConfig(queue=0), patient=True)
        await settle()
        assert not patient.task.done()
        await first.end()
        await settle()
        assert patient.place is not None
        await patient.end()


async def test_a_wait_that_is_too_long_is_refused_and_leaves_the_line() -> None:
    async with line(A) as (admission, _, _):
        slow = Client(admission, A, limits=LimitsConfig(queue_timeout=0))
        await until(slow.task.done)
        with pytest.raises(QueueTimeout, match="had no place within 0 s"):
            slow.task.result()
        assert admission.is_idle("m")


async def test_models_have_lines_of_their_own() -> None:
    async with line(A) as (admission, _, _):
        with await admission.place("other", A, 1, 1, LimitsConfig(), lambda: 1) as place:
            assert place.position == 0
