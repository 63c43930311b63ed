"""Which workers come from the same nursery, and when that goes: mock workers, of which real nurseries fork each."""

import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from router.config import ModelConfig, ResidencyConfig
from router.dispatch import Attempt
from router.errors import ModelFailed, WorkerFailed
from router.fleet.fleet import Fleet
from router.fleet.lifecycle import ModelState
from router.supervision.origin import worker_environment
from tests.router.mocks import SUPERVISION, until
from tests.router.supervision.test_supervisor import TURN, dispatcher, request, rest, text_of
from tests.router.taking import taken

pytestmark = pytest.mark.anyio

FORKING = replace(SUPERVISION, nursery=True)
MODEL = ModelConfig(Path("/models/a.gguf"), ("a",), replicas=2)


@asynccontextmanager
async def fleet(*models: ModelConfig) -> AsyncIterator[Fleet]:
    async with Fleet(models, FORKING) as started:
        yield started


def pids(fleet: Fleet) -> list[int | None]:
    return [replica.pid for replica in fleet.replicas("a")]


def nurseries() -> set[int]:
    return mocks_named("corral-nursery")


def mocks_named(*names: str) -> set[int]:
    """Of mock workers alone; real ones of other tests may be about to end."""
    return {child.pid for child in psutil.Process().children() if is_mock(child, names)}


def is_mock(process: psutil.Process, names: Sequence[str]) -> bool:
    """Not if it has just ended."""
    try:
        return process.name() in names and "tests.router.mock_worker" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


async def until_ready(fleet: Fleet, num_replicas: int = 2) -> None:
    await until(lambda: [each.state for each in fleet.replicas("a")] == [ModelState.READY] * num_replicas)


async def kill_first(fleet: Fleet, num_replicas: int = 2) -> None:
    """Kills the first replica and waits for its return."""
    [killed, *_] = pids(fleet)
    assert killed is not None
    num_restarts = fleet.replicas("a")[0].num_restarts
    os.kill(killed, signal.SIGKILL)
    await until(lambda: fleet.replicas("a")[0].num_restarts == num_restarts + 1)
    await until_ready(fleet, num_replicas)
    assert pids(fleet)[0] not in (None, killed)


async def test_a_killed_replica_comes_back_from_the_nursery_and_leaves_the_other_alone() -> None:
    async with fleet(MODEL) as started:
        await until_ready(started)
        [nursery], (_, other) = nurseries(), pids(started)
        await kill_first(started)
        assert nurseries() == {nursery}
        assert pids(started)[1] == other
        assert [replica.num_restarts for replica in started.replicas("a")] == [1, 0]
        assert await text_of(dispatcher(started), "stop_at=2") == "w0 w1"


async def test_nobody_misses_a_nursery_that_is_killed() -> None:
    async with fleet(MODEL) as started:
        await until_ready(started)
        [nursery], before = nurseries(), pids(started)
        os.kill(nursery, signal.SIGKILL)
        await until(lambda: not nurseries())
        assert pids(started) == before
        assert await text_of(dispatcher(started), "stop_at=2") == "w0 w1"
        await kill_first(started)
        assert nurseries() not in (set(), {nursery})
        assert [replica.num_restarts for replica in started.replicas("a")] == [1, 0]


async def test_streams_go_on_with_what_the_nursery_holds_and_not_with_what_the_next_one_reads(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    async with fleet(replace(MODEL, path=file, replicas=1)) as started:
        await until_ready(started, 1)
        (tmp_path / "b.gguf").write_bytes(b"GGUF of another kind")
        (tmp_path / "b.gguf").replace(file)
        stream = taken(dispatcher(started), Attempt("a"), request("stop_at=200 delay=0.02"), TURN)
        await anext(stream)
        await kill_first(started, 1)
        assert (await rest(stream)).endswith(" w199")
        stream = taken(dispatcher(started), Attempt("a"), request("stop_at=200 delay=0.02"), TURN)
        await anext(stream)
        for pid in nurseries():
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not nurseries())
        await kill_first(started, 1)
        with pytest.raises(WorkerFailed, match="another model is served as 'a'"):
            await rest(stream)


async def test_more_replicas_come_from_the_same_nursery_and_other_settings_from_another() -> None:
    async with fleet(MODEL) as started:
        await until_ready(started)
        first, before = nurseries(), pids(started)
        started.apply([replace(MODEL, replicas=3)], ResidencyConfig())
        await until_ready(started, 3)
        assert nurseries() == first
        assert pids(started)[:2] == before
        started.apply([replace(MODEL, worker_arguments=("--ctx-size", "1"))], ResidencyConfig())
        await until(lambda: len(pids(started)) == 2 and not {*pids(started)} & {*before})
        await until(lambda: len(nurseries()) == 1 and nurseries() != first)
        await until_ready(started)


async def test_a_model_that_is_unloaded_takes_its_nursery_along() -> None:
    async with fleet(MODEL) as started:
        await until_ready(started)
        started.unload("a")
        await until(lambda: started.status("a").state is ModelState.UNLOADED)
        await until(lambda: not nurseries())


async def test_leaving_ends_workers_and_nurseries() -> None:
    async with fleet(MODEL, replace(MODEL, names=("b",), worker_arguments=("--ignore-sigterm",))) as started:
        await until_ready(started)
        assert len(nurseries()) == 2
    assert not mocks_named("corral-nursery", "corral-worker")


async def test_leaving_does_not_wait_for_a_nursery_that_loads() -> None:
    started = Fleet([replace(MODEL, worker_arguments=("--load-slowly",))], FORKING)
    async with started:
        await until(lambda: bool(nurseries()))
    assert not nurseries()


async def test_a_model_that_a_nursery_cannot_read_fails_with_its_words() -> None:
    async with fleet(replace(MODEL, worker_arguments=("--bad-model", "a"))) as started:
        await until(lambda: started.status("a").state is ModelState.FAILED)
        await until(lambda: {replica.state for replica in started.replicas("a")} == {ModelState.FAILED})
        with pytest.raises(ModelFailed, match=r"/models/a.gguf: not a GGUF file"):
            await started.ready("a")


async def test_a_nursery_that_always_crashes_is_started_a_bounded_number_of_times() -> None:
    hasty = replace(FORKING, first_delay=0.001, longest_delay=0.001, max_crashes=2)
    async with Fleet([replace(MODEL, replicas=1, worker_arguments=("--exit-code", "3"))], hasty) as started:
        await until(lambda: started.status("a").state is ModelState.FAILED)
        assert started.status("a").reason == "exit status 3"
        assert started.replicas("a")[0].num_restarts == 3


def test_no_worker_gets_a_secret() -> None:
    secrets = ("HF_TOKEN", "MY_PASSWORD", "AWS_SECRET_ACCESS_KEY", "REDIS_URL", "CORRAL_REDIS", "DATABASE_DSN")
    needed = {"PATH": "/bin", "LC_ALL": "C", "PYTHONPATH": "/x", "CORRAL_CACHE": "/c", "NUMBA_BOUNDSCHECK": "1"}
    inherited = dict.fromkeys(secrets, "x") | {"LLAMA_ARG_PORT": "1"} | needed
    assert worker_environment(inherited) == needed


HEADERS = {
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "authorization=secret",
}
OTHER_HEADERS = {
    "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "authorization=secret",
    "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "authorization=secret",
}


@pytest.mark.parametrize(
    ("told", "goes_on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "otlp"}, True),
    ],
)
def test_what_opens_the_collector_goes_only_to_workers_that_export_traces(told: dict[str, str], goes_on: bool) -> None:
    given = worker_environment({"PATH": "/bin", **told, **HEADERS, **OTHER_HEADERS})
    assert given == {"PATH": "/bin", **(told | HEADERS if goes_on else {})}
