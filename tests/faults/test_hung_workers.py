"""Workers that stop without ending."""

import asyncio
import os
import signal
from dataclasses import replace

import psutil
import pytest

from router.supervision.health import Watch
from tests.faults.scenes import SLOW, WATCHFUL, Streams, all_ready, asking, gateway, statuses, words
from tests.router.mocks import DEADLINE, until

pytestmark = pytest.mark.anyio


async def test_a_stopped_worker_is_killed_and_its_streams_go_on() -> None:
    """F3."""
    async with gateway(replicas=2, supervision=WATCHFUL) as started:
        streams = Streams(started, [asking(f"stop_at=60 {SLOW}") for _ in range(4)])
        await streams.begun()
        stopped = statuses(started)[0].pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        for answer in await streams.answers():
            assert (answer.error, answer.texts) == (None, {0: words(60)})
        await until(lambda: not psutil.pid_exists(stopped))
        await until(lambda: all_ready(started, "a", 2))
        assert statuses(started)[0].num_restarts == 1


async def test_a_worker_that_goes_on_in_time_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """F4. It misses a probe, but not as many as it takes."""
    missed, silent = asyncio.Event(), Watch.silent

    def noted(watch: Watch, now: float, still: bool | None) -> str:
        missed.set()
        return silent(watch, now, still)

    monkeypatch.setattr(Watch, "silent", noted)
    async with gateway(supervision=replace(WATCHFUL, probe_timeout=0.2, probes=1000)) as started:
        streams = Streams(started, [asking(f"stop_at=30 {SLOW}")])
        await streams.begun()
        pid = statuses(started)[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        missed.clear()
        async with asyncio.timeout(DEADLINE):
            await missed.wait()
        os.kill(pid, signal.SIGCONT)
        [answer] = await streams.answers()
        assert (answer.error, answer.texts) == (None, {0: words(30)})
        assert (statuses(started)[0].pid, statuses(started)[0].num_restarts) == (pid, 0)
