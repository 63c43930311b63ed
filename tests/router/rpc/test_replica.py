import pytest

from protos import inference_pb2 as pb
from router import errors
from router.fleet.fleet import Fleet
from router.rpc.replica import Replica
from tests.router.mocks import SUPERVISION, until
from tests.router.supervision.test_supervisor import model, request

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("INVALID_REQUEST", errors.InvalidRequest),
        ("CONTEXT_EXCEEDED", errors.ContextExceeded),
        ("NOT_SUPPORTED", errors.NotSupported),
        ("OVERLOADED", errors.Overloaded),
        ("UNAVAILABLE", errors.Unavailable),
        ("INTERNAL", errors.InternalError),
    ],
)
async def test_a_workers_refusal_becomes_its_own_error(code: str, expected: type[errors.RouterError]) -> None:
    async with Fleet([model("a")], SUPERVISION) as fleet:
        await until(lambda: fleet.settled)
        [replica] = await fleet.ready("a")
        with pytest.raises(errors.RouterError) as refused, replica.calling(request(f"refuse={code}")) as call:
            await call.take()
        assert type(refused.value) is expected
        if code != "INTERNAL":
            assert refused.value.message == f"refused with {code}"
        if isinstance(refused.value, errors.ContextExceeded):
            assert (refused.value.num_prompt_tokens, refused.value.context_length) == (5000, 2048)
        if isinstance(refused.value, errors.Overloaded):
            assert refused.value.headers["Retry-After"] == "3"


async def test_a_worker_turns_strangers_away() -> None:
    async with Fleet([model("a")], SUPERVISION) as fleet:
        await until(lambda: fleet.settled)
        address = (await fleet.ready("a"))[0].address
        stranger = Replica("a", address, "wrong token")
        with pytest.raises(errors.WorkerFailed, match="UNAUTHENTICATED"):
            await stranger.describe(pb.DescribeRequest())
        await stranger.close()


async def test_a_closed_replica_says_so_instead_of_cancelling_its_caller() -> None:
    async with Fleet([model("a")], SUPERVISION) as fleet:
        await until(lambda: fleet.settled)
        [replica] = await fleet.ready("a")
        with pytest.raises(errors.WorkerLost), replica.calling(request("stop_at=100000 delay=0.01")) as call:
            await call.take()
            await replica.close()
            while await call.take():
                pass


async def test_nobody_at_the_address_is_a_lost_worker(tmp_path) -> None:
    replica = Replica("a", f"unix:{tmp_path}/nobody.sock", "token")
    with pytest.raises(errors.WorkerLost):
        await replica.describe(pb.DescribeRequest())
    await replica.close()
