"""Workers that crash again and again: how often they are started, and what others feel of it."""

import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from router.config import ModelConfig
from router.fleet.lifecycle import ModelState
from tests.faults.answers import chat
from tests.faults.scenes import PATIENT, asking, gateway, statuses, words
from tests.router.gateways import config, running
from tests.router.mocks import DEADLINE, until

pytestmark = pytest.mark.anyio

GOOD = ModelConfig(Path("/models/a.gguf"), ("a",))
BROKEN = ModelConfig(Path("/models/b.gguf"), ("b",), ("--exit-code", "3"))


async def test_a_model_that_crashes_at_its_start_does_not_hold_up_the_others() -> None:
    """F7. The gateway is healthy while it waits to start the broken worker again, and says why there is no answer."""
    patient = replace(PATIENT, first_delay=2 * DEADLINE, longest_delay=2 * DEADLINE)
    async with running(config(models=(GOOD, BROKEN), supervision=patient)) as started:
        assert (await chat(started.client, asking("stop_at=2"))).texts == {0: words(2)}
        refused = await started.client.post("/v1/chat/completions", json=asking("x", "b", stream=False))
        assert refused.status_code == 503 and "exit status 3" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) > 0
        assert (await started.client.get("/ready")).status_code == 200
        assert statuses(started, "b")[0].num_restarts == 1


async def test_a_model_that_never_starts_is_given_up_after_six_lives() -> None:
    """F7."""
    hasty = replace(PATIENT, first_delay=0.001, longest_delay=0.001, max_crashes=5)
    async with running(config(models=(GOOD, BROKEN), supervision=hasty)) as started:
        await until(lambda: statuses(started, "b")[0].state is ModelState.FAILED)
        assert statuses(started, "b")[0].num_restarts == 6
        refused = await started.client.post("/v1/chat/completions", json=asking("x", "b", stream=False))
        assert "exit status 3" in refused.json()["error"]["message"]
        assert (await chat(started.client, asking("stop_at=2"))).texts == {0: words(2)}


async def test_a_worker_that_is_killed_again_and_again_is_given_up_and_others_serve() -> None:
    """F6."""
    hasty = replace(PATIENT, first_delay=0.001, longest_delay=0.001, max_crashes=5)
    async with gateway("a", "b", supervision=hasty) as started:

        def killed() -> bool:
            if (pid := statuses(started)[0].pid) is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return statuses(started)[0].state is ModelState.FAILED

        await until(killed)
        assert statuses(started)[0].num_restarts == 6
        assert "probably out of memory" in statuses(started)[0].reason
        assert (await chat(started.client, asking("stop_at=2", "b"))).texts == {0: words(2)}
