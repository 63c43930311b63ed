"""What a transport is given through a cork."""

import asyncio

import pytest

from router.http.cork import Cork

pytestmark = pytest.mark.anyio


class Transport(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__({"peername": "somebody"})
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: object) -> None:
        assert not self.closed
        assert isinstance(data, bytes)
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def corked() -> tuple[Cork, Transport]:
    transport = Transport()
    return Cork(transport, asyncio.get_running_loop()), transport


async def test_what_is_written_in_one_turn_leaves_in_one_piece() -> None:
    cork, transport = corked()
    for data in (b"head ", b"body"):
        cork.write(data)
    assert transport.written == []
    await asyncio.sleep(0)
    cork.write(b"more")
    await asyncio.sleep(0)
    assert transport.written == [b"head body", b"more"]


async def test_what_was_written_before_the_close_is_sent() -> None:
    cork, transport = corked()
    cork.write(b"last words")
    cork.close()
    assert (transport.written, transport.closed) == ([b"last words"], True)
    await asyncio.sleep(0)
    assert transport.written == [b"last words"]


async def test_nothing_is_written_to_a_connection_that_was_lost_in_between() -> None:
    cork, transport = corked()
    cork.write(b"too late")
    transport.closed = True
    await asyncio.sleep(0)
    assert transport.written == []


async def test_everything_else_is_the_transports() -> None:
    cork, _ = corked()
    assert cork.get_extra_info("peername") == "somebody"
