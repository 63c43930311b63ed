"""Too many requests, clients that leave, and a worker that loads or ends."""
# ruff: noqa: ASYNC110 (polling with a deadline)

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2

from protos import inference_pb2 as pb
from tests.worker.rpc.serving import DEADLINE, detail_of, generate_request, serving

pytestmark = pytest.mark.anyio


async def test_a_full_line_is_overloaded(tmp_path):
    async with serving(tmp_path, max_running=1, max_waiting=1) as worker:
        worker.model.gate.clear()
        running = worker.generate(max_tokens=2)
        await worker.until(lambda stats: stats.num_running == 1)
        others = [asyncio.ensure_future(worker.answer(max_tokens=2)) for _ in range(3)]
        await worker.until_submitted(4)
        worker.model.gate.set()
        results = await asyncio.gather(*others, return_exceptions=True)
        refusals = [detail_of(result) for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert [(status, detail.code) for status, detail in refusals] == [
            (grpc.StatusCode.RESOURCE_EXHAUSTED, pb.OVERLOADED)
        ] * 2
        assert [reply async for reply in running]


async def test_too_many_open_calls_are_overloaded(tmp_path):
    async with serving(tmp_path, max_open=1) as worker:
        worker.model.gate.clear()
        running = worker.generate(max_tokens=2)
        await worker.until(lambda stats: stats.num_running == 1)
        status, detail = await worker.error()
        assert (status, detail.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, pb.OVERLOADED)
        worker.model.gate.set()
        assert [reply async for reply in running]


async def test_a_client_leaving_frees_its_blocks(worker):
    call = worker.generate(max_tokens=-1)
    await call.read()
    call.cancel()
    await worker.until(lambda s: s.num_running == 0 and s.num_free_blocks + s.num_cached_blocks == s.num_blocks)


async def test_a_client_leaving_the_line_frees_its_place(tmp_path):
    async with serving(tmp_path, max_running=1) as worker:
        worker.model.gate.clear()
        running = worker.generate(max_tokens=2)
        await worker.until(lambda stats: stats.num_running == 1)
        waiting = worker.generate(max_tokens=2)
        await worker.until_submitted(2)
        waiting.cancel()
        await worker.until_open(1)
        worker.model.gate.set()
        assert [reply async for reply in running]
        await worker.until(lambda stats: stats.num_running == stats.num_waiting == 0)
        assert (await worker.stub.Stats(pb.StatsRequest())).predicted_tokens_total == 2


async def test_a_deadline_frees_the_request(worker):
    worker.model.gate.clear()
    call = worker.stub.Generate(generate_request(max_tokens=-1), timeout=0.2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [reply async for reply in call]
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    worker.model.gate.set()
    await worker.until(lambda stats: stats.num_running == stats.num_waiting == 0)


async def test_health_answers_while_a_step_is_computed(worker):
    worker.model.gate.clear()
    call = worker.generate(max_tokens=1)
    await worker.until(lambda stats: stats.busy)
    assert await worker.status() == health_pb2.HealthCheckResponse.SERVING
    worker.model.gate.set()
    assert [reply async for reply in call]


async def test_a_loading_worker_is_not_serving_and_unavailable(tmp_path):
    async with serving(tmp_path, opened=False) as worker:
        assert await worker.status() == health_pb2.HealthCheckResponse.NOT_SERVING
        status, detail = await worker.error()
        assert (status, detail.code) == (grpc.StatusCode.UNAVAILABLE, pb.UNAVAILABLE)
        await worker.open()
        assert await worker.status() == health_pb2.HealthCheckResponse.SERVING
        assert (await worker.answer(max_tokens=1))[2].num_completion_tokens == 1


async def test_draining_refuses_new_requests_and_finishes_old_ones(worker):
    worker.model.gate.clear()
    call = worker.generate(max_tokens=5)
    await worker.until(lambda stats: stats.num_running == 1)
    drained = asyncio.create_task(worker.server.drain(DEADLINE))
    async with asyncio.timeout(DEADLINE):
        while await worker.status() == health_pb2.HealthCheckResponse.SERVING:
            await asyncio.sleep(0.002)
    assert (await worker.error())[1].code == pb.UNAVAILABLE
    assert not drained.done()
    worker.model.gate.set()
    replies = [reply async for reply in call]
    assert replies[-1].finished.num_completion_tokens == 5
    await drained


async def test_what_outlives_the_grace_is_told_so(worker):
    worker.model.gate.clear()
    call = worker.generate(max_tokens=-1)
    await worker.until(lambda stats: stats.num_running == 1)
    drained = asyncio.create_task(worker.server.drain(0.01))
    async with asyncio.timeout(DEADLINE):
        while worker.engine._inbox._is_open:
            await asyncio.sleep(0.002)
    worker.model.gate.set()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [reply async for reply in call]
    assert detail_of(caught.value)[1].code == pb.UNAVAILABLE
    await drained
