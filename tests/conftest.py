"""The event loop of the tests: one for all of them, as a gateway and a worker have one each.

grpc hears of all its calls in one queue for the whole process. What comes late, of a call that was cancelled or of a
channel that was closed, is for the loop of that call: were it closed, whichever loop reads the queue then would fail.
"""

from collections.abc import AsyncIterator

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """Keeps the loop from the first test to the last."""
    yield
