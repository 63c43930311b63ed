"""Workers on other hosts: reached, lost, hung, replaced, and taken back, in real processes."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from protos import inference_pb2 as pb
from router.config import ModelConfig, ResidencyConfig, SupervisionConfig
from router.dispatch import Attempt
from router.errors import Unavailable
from router.fleet.fleet import Fleet
from router.fleet.lifecycle import ModelState, ReplicaStatus
from router.remotes.remoteset import World
from tests.router.mocks import DEADLINE, SUPERVISION, until
from tests.router.remote_workers import TOKEN, Names, model, remotes
from tests.router.supervision.test_supervisor import TURN, dispatcher, request, text_of
from tests.router.taking import taken
from tests.secretfiles import write_secret

pytestmark = pytest.mark.anyio

QUICK = replace(SUPERVISION, longest_reconnect=0.2, resolve_interval=0.05, probe_interval=0.05, probe_timeout=DEADLINE)
IMPATIENT = replace(QUICK, probe_timeout=1.0)


@asynccontextmanager
async def fleet(
    *models: ModelConfig, world: World | None = None, wait: bool = True, config: SupervisionConfig = QUICK
) -> AsyncIterator[Fleet]:
    async with Fleet(models, config, world=world or Names().world) as started:
        if wait:
            await until(lambda: started.settled)
        yield started


def told(fleet: Fleet, address: str, name: str = "a") -> ReplicaStatus | None:
    return next((each for each in fleet.replicas(name) if each.address == address), None)


async def until_state(fleet: Fleet, address: str, state: ModelState, name: str = "a") -> ReplicaStatus:
    await until(lambda: (found := told(fleet, address, name)) is not None and found.state is state)
    found = told(fleet, address, name)
    assert found is not None
    return found


def num_steps(fleet: Fleet) -> int:
    """Requests that mock workers have ended for this gateway."""
    stats = pb.StatsReply()
    fleet.tally("a").put_into(stats)
    return stats.num_steps


async def until_ready(fleet: Fleet, *addresses: str) -> None:
    """Exactly these can be called."""
    await until(lambda: sorted(replica.address for replica in fleet.open("a")) == sorted(addresses))


# ---- one worker -------------------------------------------------------------------------------


async def test_a_worker_on_another_host_answers_and_is_told_by_its_address() -> None:
    with remotes(1) as [worker]:
        async with fleet(model(worker.address)) as started:
            await until_ready(started, worker.address)
            assert await text_of(dispatcher(started), "stop_at=3") == "w0 w1 w2"
            [status] = started.replicas("a")
            assert (status.address, status.pid, status.is_remote) == (worker.address, None, True)
            assert started.status("a").state is ModelState.READY
            assert started.num_parallel("a") == 4


async def test_every_gateway_calls_a_worker_by_the_same_name() -> None:
    with remotes(2) as (first, second):
        async with fleet(model(first.address, second.address)) as one, fleet(model(second.address)) as other:
            await until_ready(one, first.address, second.address)
            await until_ready(other, second.address)
            assert told(one, second.address).name == told(other, second.address).name
            assert len({replica.name for replica in one.replicas("a")}) == 2


async def test_a_worker_that_is_not_there_does_not_hold_up_the_start_and_is_taken_when_it_comes() -> None:
    with remotes(1) as [worker]:
        worker.kill()
        async with fleet(model(worker.address)) as started:
            status = await until_state(started, worker.address, ModelState.UNREACHABLE)
            assert "cannot be reached" in status.reason
            with pytest.raises(Unavailable, match="no model is ready"):
                started.check_ready()
            with pytest.raises(Unavailable, match="no worker of model 'a' can be reached"):
                await started.ready("a")
            worker.start()
            await until_ready(started, worker.address)
            started.check_ready()


async def test_the_start_waits_for_a_worker_that_loads_and_so_do_later_requests(tmp_path: Path) -> None:
    with remotes(1, "--hold", str(tmp_path / "go")) as [worker]:
        async with fleet(model(worker.address), wait=False) as started:
            await until(lambda: (found := told(started, worker.address)) is not None and "loading" in found.reason)
            assert not started.settled
            (tmp_path / "go").touch()
            await until_ready(started, worker.address)
            assert started.settled


async def test_a_wrong_token_is_told_as_such() -> None:
    with remotes(1) as [worker]:
        async with fleet(model(worker.address), world=World(Names(), {})) as started:
            status = await until_state(started, worker.address, ModelState.UNREACHABLE)
            assert "UNAUTHENTICATED" in status.reason and "token" in status.reason


async def test_a_token_file_is_read_for_every_connection(tmp_path: Path) -> None:
    file = write_secret(tmp_path / "token", "of somebody else")
    with remotes(1) as [worker]:
        async with fleet(replace(model(worker.address), token_file=file), world=World(Names(), {})) as started:
            await until_state(started, worker.address, ModelState.UNREACHABLE)
            file.write_text(f"{TOKEN}\n")
            await until_ready(started, worker.address)
            worker.kill()
            file.unlink()
            await until(lambda: "cannot be read" in (told(started, worker.address) or pytest.fail("gone")).reason)


async def test_a_token_file_that_others_may_read_is_not_used_until_that_is_mended(tmp_path: Path) -> None:
    file = write_secret(tmp_path / "token", TOKEN)
    file.chmod(0o644)
    with remotes(1) as [worker]:
        async with fleet(replace(model(worker.address), token_file=file), world=World(Names(), {})) as started:
            status = await until_state(started, worker.address, ModelState.UNREACHABLE)
            assert "mode 0644" in status.reason and f"chmod 600 {file}" in status.reason
            file.chmod(0o600)
            await until_ready(started, worker.address)


# ---- several ----------------------------------------------------------------------------------


def text_in(replies: Iterable[pb.GenerateReply]) -> str:
    return "".join(reply.delta.text for reply in replies)


async def test_an_answer_whose_worker_is_killed_goes_on_with_another() -> None:
    with remotes(2) as (first, second):
        async with fleet(model(first.address, second.address)) as started:
            await until_ready(started, first.address, second.address)
            attempt, text = Attempt("a"), ""
            async for replies in taken(dispatcher(started), attempt, request("stop_at=20 delay=0.02"), TURN):
                text += text_in(replies)
                if text == "w0 w1":
                    used, other = (first, second) if told(started, first.address).num_open else (second, first)
                    used.kill()
            assert text == " ".join(f"w{number}" for number in range(20))
            assert attempt.num_moves == 1
            await until_ready(started, other.address)
            used.start()
            await until_ready(started, first.address, second.address)
            assert told(started, used.address).num_restarts == 1
            assert started.status("a").num_crashes == 1


async def test_a_worker_that_hangs_is_left_and_taken_back_as_a_new_one_but_never_killed() -> None:
    with remotes(2) as (first, second):
        async with fleet(model(first.address, second.address), config=IMPATIENT) as started:
            await until_ready(started, first.address, second.address)
            before = next(replica for replica in started.open("a") if replica.address == first.address)
            first.signal(signal.SIGSTOP)
            status = await until_state(started, first.address, ModelState.UNREACHABLE)
            assert "it hung" in status.reason
            assert await text_of(dispatcher(started), "stop_at=2") == "w0 w1"
            first.signal(signal.SIGCONT)
            await until_ready(started, first.address, second.address)
            after = next(replica for replica in started.open("a") if replica.address == first.address)
            assert after.since > before.since and after.name == before.name  # so it starts slowly
            assert first.process is not None and first.process.poll() is None


async def test_a_worker_that_ends_gets_no_new_requests_while_its_open_ones_end() -> None:
    with remotes(2, "--grace", "30") as (first, second):
        async with fleet(model(first.address, second.address)) as started:
            await until_ready(started, first.address, second.address)
            replica = next(replica for replica in started.open("a") if replica.address == first.address)
            with replica.calling(request("stop_at=30 delay=0.02")) as call:
                text = text_in(await call.take())
                first.signal(signal.SIGTERM)
                status = await until_state(started, first.address, ModelState.DRAINING)
                assert status.reason == "it is ending"
                await until_ready(started, second.address)
                while replies := await call.take():
                    text += text_in(replies)
            assert text == " ".join(f"w{number}" for number in range(30))
            await until_state(started, first.address, ModelState.UNREACHABLE)


async def test_another_model_under_the_same_name_is_refused_with_both_values(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with remotes(1) as [right], remotes(1, "--architecture", "mamba") as [wrong]:
        async with fleet(model(right.address)) as started:
            await until_ready(started, right.address)
            started.apply([model(right.address, wrong.address)], ResidencyConfig())
            status = await until_state(started, wrong.address, ModelState.FAILED)
            assert "architecture mamba, theirs mock" in status.reason
            assert any(wrong.address in line and status.reason in line for line in caplog.messages)
            await until_ready(started, right.address)
            right.kill()
            await until_ready(started, wrong.address)  # the one that is left is the model


async def test_a_worker_with_another_context_is_refused_for_what_one_takes_the_other_would_not() -> None:
    with remotes(1) as [right], remotes(1, "--ctx-size", "512") as [short]:
        async with fleet(model(right.address)) as started:
            await until_ready(started, right.address)
            started.apply([model(right.address, short.address)], ResidencyConfig())
            status = await until_state(started, short.address, ModelState.FAILED)
            assert "context length 512, theirs 2048" in status.reason
            await until_ready(started, right.address)


async def test_a_process_of_this_host_says_which_model_it_is() -> None:
    with remotes(1, "--architecture", "mamba") as [wrong]:
        here = ModelConfig(Path("/models/a.gguf"), ("a",), workers=(wrong.address,))
        async with fleet(here) as started:
            await until(lambda: any(replica.pid for replica in started.replicas("a")))
            await until_state(started, wrong.address, ModelState.FAILED)
            assert [replica.address for replica in started.open("a")] != [wrong.address]


async def test_a_model_may_have_processes_here_and_workers_elsewhere() -> None:
    with remotes(1) as [worker]:
        both = ModelConfig(Path("/models/a.gguf"), ("a",), workers=(worker.address,), load_on_start=False)
        async with fleet(both) as started:
            await until_ready(started, worker.address)
            started.load("a")
            await until(lambda: len(started.open("a")) == 2)
            started.unload("a")
            await until_ready(started, worker.address)
            assert await text_of(dispatcher(started), "stop_at=1") == "w0"


async def test_room_for_models_is_made_without_those_on_other_hosts() -> None:
    with remotes(1) as [worker]:
        local = ModelConfig(Path("/models/b.gguf"), ("b",))
        one = ResidencyConfig(max_models=1)
        async with Fleet([model(worker.address), local], QUICK, one, Names().world) as started:
            await until(lambda: started.settled and bool(started.open("a")) and bool(started.open("b")))


# ---- names ------------------------------------------------------------------------------------


def by_name(*addresses: str) -> tuple[Names, str]:
    """A name server that knows these, and the target that means all of them."""
    hosts = [address.rpartition(":")[0] for address in addresses]
    return Names({"workers.test": hosts}), f"dns:///workers.test:{addresses[0].rpartition(':')[2]}"


async def test_each_address_of_a_name_is_a_replica_and_they_come_and_go_with_it() -> None:
    with remotes(3) as workers:
        first, second, third = (worker.address for worker in workers)
        names, target = by_name(first, second)
        async with fleet(model(target), world=names.world) as started:
            await until_ready(started, first, second)
            names.addresses = by_name(second, third)[0].addresses
            await until_ready(started, second, third)
            await until(lambda: told(started, first) is None)


async def test_an_address_that_goes_is_left_once_its_answers_have_ended() -> None:
    with remotes(2) as workers:
        first, second = (worker.address for worker in workers)
        names, target = by_name(first, second)
        async with fleet(model(target), world=names.world) as started:
            await until_ready(started, first, second)
            replica = next(replica for replica in started.open("a") if replica.address == first)
            with replica.calling(request("stop_at=30 delay=0.02")) as call:
                text = text_in(await call.take())
                names.addresses = by_name(second)[0].addresses
                await until_state(started, first, ModelState.DRAINING)
                while replies := await call.take():
                    text += text_in(replies)
            assert text == " ".join(f"w{number}" for number in range(30))
            await until(lambda: told(started, first) is None)


async def test_workers_serve_on_while_their_name_cannot_be_looked_up() -> None:
    with remotes(1) as [worker]:
        names, target = by_name(worker.address)
        async with fleet(model(target), world=names.world) as started:
            await until_ready(started, worker.address)
            names.addresses, asked = {}, names.num_asked
            await until(lambda: names.num_asked > asked + 2)
            assert await text_of(dispatcher(started), "stop_at=1") == "w0"


async def test_a_name_without_addresses_is_told_with_its_reason() -> None:
    async with fleet(model("dns:///nobody.test:1"), world=Names().world) as started:
        assert started.status("a").state is ModelState.UNREACHABLE
        assert "no such host: nobody.test" in started.status("a").reason
        with pytest.raises(Unavailable, match="no worker of model 'a' is known"):
            await started.ready("a")


# ---- reloads ----------------------------------------------------------------------------------


async def test_reloads_add_and_leave_addresses_without_a_dropped_request() -> None:
    with remotes(2) as workers:
        first, second = (worker.address for worker in workers)
        async with fleet(model(first)) as started:
            await until_ready(started, first)
            dispatch = dispatcher(started)
            texts = [asyncio.create_task(text_of(dispatch, "stop_at=40 delay=0.01")) for _ in range(4)]
            await until(lambda: told(started, first).num_open == 4)
            started.apply([model(first, second)], ResidencyConfig())
            await until_ready(started, first, second)
            started.apply([model(second)], ResidencyConfig())
            await until_ready(started, second)
            async with asyncio.timeout(DEADLINE):
                assert await asyncio.gather(*texts) == [" ".join(f"w{number}" for number in range(40))] * 4
            await until(lambda: told(started, first) is None)
            assert num_steps(started) == 4, "what it computed stays counted"
            started.apply([model(first, second)], ResidencyConfig())
            await until_ready(started, first, second)
            assert num_steps(started) == 4, "once, though it tells of it again"
            assert started.status("a").num_crashes == 0


async def test_a_model_that_is_taken_away_is_left_when_its_last_request_has_ended_and_may_come_back() -> None:
    with remotes(1) as [worker]:
        async with fleet(model(worker.address)) as started:
            await until_ready(started, worker.address)
            text = asyncio.create_task(text_of(dispatcher(started), "stop_at=40 delay=0.01"))
            await until(lambda: told(started, worker.address).num_open == 1)
            started.apply([], ResidencyConfig())
            assert started.models() == []
            async with asyncio.timeout(DEADLINE):
                assert await text == " ".join(f"w{number}" for number in range(40))
            started.apply([model(worker.address)], ResidencyConfig())
            await until_ready(started, worker.address)
