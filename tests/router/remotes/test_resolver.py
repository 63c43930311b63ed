import asyncio
from collections.abc import Sequence

import pytest

from router.remotes.resolver import Resolution, system_lookup

pytestmark = pytest.mark.anyio


async def test_this_hosts_own_name_has_one_address_of_one_kind() -> None:
    assert await system_lookup("127.0.0.1") == ["127.0.0.1"]
    assert await system_lookup("::1") == ["::1"]
    assert len(await system_lookup("localhost")) == 1  # though it may have both kinds


async def test_a_name_is_looked_up_again_when_somebody_asks_and_a_failure_is_an_answer() -> None:
    said: list[Sequence[str] | OSError] = [["10.0.0.1"], OSError("no name server"), ["10.0.0.2"]]

    async def lookup(host: str) -> Sequence[str]:
        assert host == "workers"
        answer = said.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    resolution = Resolution("workers", lookup, interval=1e6)
    answers = resolution.answers()
    assert await anext(answers) == ("10.0.0.1",)
    resolution.ask()
    assert isinstance(await anext(answers), OSError)
    again = asyncio.ensure_future(anext(answers))
    await asyncio.sleep(0)
    assert not again.done()
    resolution.ask()
    assert await again == ("10.0.0.2",)


async def test_a_name_is_looked_up_again_after_every_interval() -> None:
    num_asked = 0

    async def lookup(host: str) -> Sequence[str]:
        nonlocal num_asked
        num_asked += 1
        return ()

    answers = Resolution("workers", lookup, interval=0.0).answers()
    for expected in (1, 2, 3):
        assert await anext(answers) == () and num_asked == expected
