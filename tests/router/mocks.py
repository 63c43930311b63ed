# ruff: noqa: ASYNC110 (polling with a deadline)
"""How tests start mock workers, and how they wait."""

import asyncio
import sys
from collections.abc import Callable

from router.config import SupervisionConfig

MOCK_COMMAND = (sys.executable, "-m", "tests.router.mock_worker")
DEADLINE = 120.0  # seconds; only ever reached by a failing test
SUPERVISION = SupervisionConfig(
    worker_command=MOCK_COMMAND, nursery=False, first_delay=0.05, longest_delay=0.2, stop_grace=2.0
)


async def until(condition: Callable[[], bool]) -> None:
    """Polls until the condition holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)
