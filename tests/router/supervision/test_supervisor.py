# ruff: noqa: ASYNC110 (polling with a deadline)
import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from protos import inference_pb2 as pb
from router.config import CoreLease, LimitsConfig, ModelConfig, SupervisionConfig
from router.dispatch import Attempt, Dispatcher, Turn
from router.errors import ModelFailed, ModelLoading, RequestPoisonous, Unavailable, WorkerFailed, WorkerLost
from router.fleet.fleet import Fleet
from router.fleet.lifecycle import ModelState
from router.keys.keys import ANONYMOUS
from router.policy.admission import Admission
from router.supervision import silence
from tests.router.mocks import DEADLINE, SUPERVISION, until
from tests.router.taking import taken

pytestmark = pytest.mark.anyio


def model(name: str, *options: str) -> ModelConfig:
    return ModelConfig(Path(f"/models/{name}.gguf"), (name,), options)


@asynccontextmanager
async def fleet(*models: ModelConfig, supervision: SupervisionConfig = SUPERVISION) -> AsyncIterator[Fleet]:
    async with Fleet(models, supervision) as started:
        yield started


def status(fleet: Fleet, name: str = "a"):
    return next(found for found in fleet.models() if found.name == name)


async def until_state(fleet: Fleet, state: ModelState, name: str = "a") -> None:
    await until(lambda: status(fleet, name).state is state)


def request(text: str, **fields: object) -> pb.GenerateRequest:
    prompt = pb.Prompt(parts=pb.PromptParts(parts=[pb.PromptPart(text=text)]))
    return pb.GenerateRequest(prompt=prompt, max_tokens=-1, **fields)  # type: ignore[arg-type]


TURN = Turn(ANONYMOUS, LimitsConfig(in_flight=100), cost=1)


def dispatcher(fleet: Fleet) -> Dispatcher:
    return Dispatcher(fleet, Admission(time.monotonic))


async def text_of(dispatcher: Dispatcher, prompt: str, name: str = "a") -> str:
    return await rest(taken(dispatcher, Attempt(name), request(prompt), TURN))


async def rest(generation: AsyncIterator[list[pb.GenerateReply]]) -> str:
    """The text that is still to come."""
    return "".join([reply.delta.text async for replies in generation for reply in replies])


async def test_a_worker_becomes_ready_and_answers() -> None:
    async with fleet(model("a")) as started:
        await until_state(started, ModelState.READY)
        assert await text_of(dispatcher(started), "hello stop_at=3") == "w0 w1 w2"
        found = status(started)
        assert found.description is not None and found.description.architecture == "mock"
        assert found.replicas[0].pid is not None and psutil.pid_exists(found.replicas[0].pid)


async def test_a_model_that_loads_is_refused_as_loading_and_tells_its_progress(tmp_path: Path) -> None:
    async with fleet(model("a", "--hold", str(tmp_path / "go"))) as started:
        await until(lambda: (progress := status(started).progress) is not None and progress.fraction == 1.0)
        with pytest.raises(ModelLoading):
            await started.ready("a")
        with pytest.raises(ModelLoading):
            started.check_health()
        (tmp_path / "go").touch()
        await until_state(started, ModelState.READY)
        started.check_health()


async def test_a_worker_that_stands_still_while_it_loads_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "INTERVAL", 0.05)
    async with fleet(model("a", "--load-seconds", "1")) as started:
        await until(lambda: status(started).progress is not None)
        stopped = status(started).replicas[0].pid
        os.kill(stopped, signal.SIGSTOP)
        await until(lambda: status(started).replicas[0].num_restarts == 1)
        assert status(started).reason.startswith("it hung while it loaded")
        await until_state(started, ModelState.READY)
        assert not psutil.pid_exists(stopped)


async def test_leaving_stops_every_worker_and_removes_the_sockets() -> None:
    async with fleet(
        model("a"), model("b", "--ignore-sigterm"), supervision=replace(SUPERVISION, stop_grace=0.3)
    ) as started:
        await until(lambda: all(found.state is ModelState.READY for found in started.models()))
        pids = [found.replicas[0].pid for found in started.models()]
        [replica] = await started.ready("a")
        folder = Path(replica.address.removeprefix("unix:")).parent
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not any(psutil.pid_exists(pid) for pid in pids if pid)
    assert not folder.exists()
    assert [found.state for found in started.models()] == [ModelState.STOPPED, ModelState.STOPPED]


async def test_streams_of_a_killed_worker_go_on_where_it_comes_back() -> None:
    async with fleet(model("a"), model("b")) as started:
        await until(lambda: all(found.state is ModelState.READY for found in started.models()))
        calls = dispatcher(started)
        first = status(started).replicas[0].pid
        begun = [asyncio.Event() for _ in range(8)]

        async def stream(number: int) -> str:
            texts = []
            async for replies in taken(calls, Attempt("a"), request("stop_at=50 delay=0.01"), TURN):
                for reply in replies:
                    if reply.HasField("delta"):
                        begun[number].set()
                        texts.append(reply.delta.text)
            return "".join(texts)

        streams = [asyncio.create_task(stream(number)) for number in range(8)]
        other = asyncio.create_task(text_of(calls, "stop_at=20 delay=0.02", "b"))
        await asyncio.gather(*(event.wait() for event in begun))
        os.kill(first, signal.SIGKILL)
        outcomes = await asyncio.gather(*streams, return_exceptions=True)
        assert outcomes == [" ".join(f"w{word}" for word in range(50))] * 8
        assert (await other).endswith(" w19")
        assert await text_of(calls, "again stop_at=2") == "w0 w1"
        assert status(started).replicas[0].pid != first
        assert status(started).num_crashes == 1


@pytest.mark.parametrize("num_replicas", [1, 2])
async def test_a_stream_does_not_go_on_with_other_weights_than_it_began_with(tmp_path: Path, num_replicas: int) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    async with fleet(ModelConfig(file, ("a",), (), num_replicas)) as started:
        await until(lambda: len(started.open("a")) == num_replicas)
        for number in range(num_replicas):  # with two, the second one's streams find the first one with other weights
            stream = taken(dispatcher(started), Attempt("a"), request("stop_at=200 delay=0.02", place=4 * number), TURN)
            await anext(stream)
            if number == 0:
                (tmp_path / "b.gguf").write_bytes(b"GGUF of another kind")
                (tmp_path / "b.gguf").replace(file)
            os.kill(started.replicas("a")[number].pid or 0, signal.SIGKILL)
            if num_replicas == 2 and number == 0:
                assert (await rest(stream)).endswith(" w199"), "the second one has the same weights still"
                await until(lambda: len(started.open("a")) == 2)
                continue
            with pytest.raises(WorkerFailed, match="another model is served as 'a'"):
                await rest(stream)
        assert await text_of(dispatcher(started), "stop_at=2") == "w0 w1"


async def test_requests_go_to_what_most_replicas_have_loaded_once_a_file_was_swapped(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    async with fleet(ModelConfig(file, ("a",), (), 3)) as started:
        await until(lambda: len(started.open("a")) == 3)
        calls = dispatcher(started)
        (tmp_path / "b.gguf").write_bytes(b"GGUF of another kind")
        (tmp_path / "b.gguf").replace(file)

        async def called_after_a_crash(number: int) -> set[str | None]:
            crashed = started.replicas("a")[number].pid or 0
            os.kill(crashed, signal.SIGKILL)
            await until(lambda: all(each.pid != crashed for each in started.replicas("a")))
            await until(lambda: len(started.open("a")) == 3)
            attempts = [Attempt("a") for _ in range(6)]
            asked = request("stop_at=9 delay=0.01")
            await asyncio.gather(*(rest(taken(calls, each, asked, TURN)) for each in attempts))
            return {attempt.replica for attempt in attempts}

        assert await called_after_a_crash(0) == {"a/1", "a/2"}
        assert await called_after_a_crash(1) == {"a/0", "a/1"}


async def test_a_request_of_which_nothing_was_answered_goes_to_the_restarted_worker(tmp_path: Path) -> None:
    async with fleet(model("a")) as started:
        await until_state(started, ModelState.READY)
        calls = dispatcher(started)
        crash = f"crash_after=0 crash_once={tmp_path / 'crashed'} stop_at=2"
        assert await text_of(calls, crash) == "w0 w1"
        assert status(started).num_crashes == 1


async def test_a_request_that_kills_two_workers_is_given_up() -> None:
    async with fleet(model("a")) as started:
        await until_state(started, ModelState.READY)
        with pytest.raises(RequestPoisonous):
            await text_of(dispatcher(started), "crash_after=0")
        await until(lambda: status(started).num_crashes == 2)


async def test_an_answer_without_its_end_is_an_error() -> None:
    async with fleet(model("a")) as started:
        await until_state(started, ModelState.READY)
        with pytest.raises(WorkerFailed, match="too early"):
            await text_of(dispatcher(started), "end_after=2")
        assert status(started).num_crashes == 0


async def test_a_stream_cut_by_the_stop_of_the_fleet_ends_with_an_error() -> None:
    async with fleet(model("a")) as started:
        await until_state(started, ModelState.READY)
        replies = taken(dispatcher(started), Attempt("a"), request("stop_at=100000 delay=0.01"), TURN)
        await anext(replies)
        await started.stop(0)
        with pytest.raises((WorkerLost, Unavailable)):
            async for _ in replies:
                pass


async def test_closing_a_stream_cancels_it_in_the_worker() -> None:
    async with fleet(model("a")) as started:
        await until_state(started, ModelState.READY)
        calls = dispatcher(started)
        replies = taken(calls, Attempt("a"), request("stop_at=100000 delay=0.01"), TURN)
        await anext(replies)
        await anext(replies)
        assert (await calls.stats("a")).num_running == 1
        await replies.aclose()
        async with asyncio.timeout(DEADLINE):
            while (await calls.stats("a")).num_running:
                await asyncio.sleep(0.01)
        assert (await calls.stats("a")).predicted_tokens_total == 1  # counts the cancelled


async def test_a_worker_that_cannot_read_its_model_fails_with_its_own_words_and_others_serve() -> None:
    bad = model("bad", "--bad-model", "bad")
    async with fleet(bad, model("a")) as started:
        await until_state(started, ModelState.FAILED, "bad")
        await until_state(started, ModelState.READY)
        with pytest.raises(ModelFailed, match=r"/models/bad.gguf: not a GGUF file"):
            await started.ready("bad")
        started.check_health()
        assert status(started, "bad").num_crashes == 1


async def test_a_worker_that_always_crashes_is_started_a_bounded_number_of_times() -> None:
    """F7."""
    supervision = replace(SUPERVISION, first_delay=0.001, longest_delay=0.001, max_crashes=3)
    async with fleet(model("a", "--exit-code", "3"), supervision=supervision) as started:
        await until_state(started, ModelState.FAILED)
        found = status(started)
        assert found.num_crashes == 4
        assert found.reason == "exit status 3"
        assert "going down" in found.last_lines


async def test_requests_during_a_crash_loop_are_refused_at_once_with_the_reason() -> None:
    """F7."""
    supervision = replace(SUPERVISION, first_delay=60.0, longest_delay=60.0)
    async with fleet(model("a", "--exit-code", "3"), supervision=supervision) as started:
        await until_state(started, ModelState.CRASHED)
        with pytest.raises(Unavailable, match="exit status 3") as refused:
            await started.ready("a")
        assert int(refused.value.headers["Retry-After"]) >= 45


async def test_a_command_that_cannot_be_executed_fails_the_model() -> None:
    supervision = replace(SUPERVISION, worker_command=("/absent/worker",))
    async with fleet(model("a"), supervision=supervision) as started:
        await until_state(started, ModelState.FAILED)
        with pytest.raises(ModelFailed, match="cannot start the worker"):
            await started.ready("a")


async def test_a_worker_gets_no_secrets_and_its_own_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_API_KEY", "s3cret")
    monkeypatch.setenv("HF_TOKEN", "s3cret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("REDIS_URL", "s3cret")
    monkeypatch.setenv("CORRAL_REDIS", "s3cret")
    async with fleet(model("a")) as started:
        await until_state(started, ModelState.READY)
        pid = status(started).replicas[0].pid
        environment = psutil.Process(pid).environ()
    assert "s3cret" not in environment.values()
    assert len(environment["CORRAL_WORKER_TOKEN"]) == 64


@pytest.mark.parametrize("lease", list(CoreLease))
async def test_workers_are_told_with_whom_they_share_the_cores(lease: CoreLease) -> None:
    async with fleet(model("a"), model("b"), supervision=replace(SUPERVISION, core_lease=lease)) as started:
        await until(lambda: all(found.state is ModelState.READY for found in started.models()))
        folder = Path((await started.ready("a"))[0].address.removeprefix("unix:")).parent
        commands = [psutil.Process(found.replicas[0].pid).cmdline() for found in started.models()]
    told = {command[command.index("--core-lease") + 1] for command in commands}
    assert told == {{"auto": str(folder / "turns"), "on": "host", "off": "off"}[lease]}
