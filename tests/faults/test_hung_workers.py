"""Workers that stop without ending."""

import os
import signal
from dataclasses import replace

import psutil
import pytest

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


async def test_a_worker_that_goes_on_in_time_is_left_alone() -> None:
    """F4."""
    async with gateway(supervision=replace(WATCHFUL, probe_timeout=DEADLINE)) as started:
        streams = Streams(started, [asking(f"stop_at=30 {SLOW}")])
        await streams.begun()
        pid = statuses(started)[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
        os.kill(pid, signal.SIGCONT)
        [answer] = await streams.answers()
        assert (answer.error, answer.texts) == (None, {0: words(30)})
        assert (statuses(started)[0].pid, statuses(started)[0].num_restarts) == (pid, 0)
