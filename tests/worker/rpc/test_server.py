"""Where a worker listens, and who gets in."""

import socket
import stat

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import inference_pb2 as pb
from tests.certificates import Authority
from tests.worker.rpc.serving import DEADLINE, generate_request, serving
from worker.rpc.access import Access, AccessError, read_tls
from worker.rpc.server import ListenError, Server

pytestmark = pytest.mark.anyio


async def test_without_the_token_nothing_but_health_is_answered(tmp_path):
    async with serving(tmp_path, token="s3cret-ключ".encode().hex()) as worker:
        assert (await worker.answer(max_tokens=1))[2].num_completion_tokens == 1
        for metadata in ((), (("corral-token", "wrong"),), (("corral-token", ""),)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await worker.stub.Stats(pb.StatsRequest(), metadata=metadata)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                [reply async for reply in worker.stub.Generate(generate_request(), metadata=metadata)]
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert await worker.status() == health_pb2.HealthCheckResponse.SERVING


async def test_the_socket_is_for_this_user_alone(worker, tmp_path):
    assert stat.S_IMODE((tmp_path / "worker.sock").stat().st_mode) == 0o600


async def test_an_address_in_use_is_refused(worker, tmp_path):
    with pytest.raises(ListenError, match="another process"):
        await Server(Access(), 1).start(f"unix:{tmp_path}/worker.sock")
    other = Server(Access(), 1)
    listen = await other.start("127.0.0.1:0")
    with pytest.raises(ListenError, match="in use"):
        await Server(Access(), 1).start(listen)
    await other.drain(0)


async def test_a_socket_left_by_a_killed_worker_is_replaced(tmp_path):
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(f"{tmp_path}/worker.sock")
    async with serving(tmp_path) as worker:
        assert (await worker.answer(max_tokens=1))[2].num_completion_tokens == 1


@pytest.mark.parametrize(
    "listen", ["nonsense", "127.0.0.1:x", "127.0.0.1:70000", "unix:/no/folder/s", "unix:/" + "x" * 120]
)
async def test_an_address_that_cannot_be_is_refused(listen):
    with pytest.raises(ListenError, match="cannot listen on"):
        await Server(Access(open_to_all=True), 1).start(listen)


async def test_nobody_listens_beyond_this_host_for_everybody(tmp_path):
    certificate, key = Authority(tmp_path).issue("worker")
    tls = read_tls(certificate, key, None)
    for access in (Access(), Access(tls=tls)):
        with pytest.raises(AccessError, match=r"anybody who can reach 0\.0\.0\.0"):
            await Server(access, 1).start("0.0.0.0:0")
    for access in (Access("token"), Access(tls=read_tls(certificate, key, certificate)), Access(open_to_all=True)):
        server = Server(access, 1)
        assert (await server.start("0.0.0.0:0")).startswith("0.0.0.0:")
        await server.drain(0)


async def test_certificates_that_do_not_go_together_are_refused(tmp_path):
    authority = Authority(tmp_path)
    (certificate, key), (_, another_key) = authority.issue("worker"), authority.issue("another")
    for files in ((certificate, None, None), (None, key, None), (None, None, certificate)):
        with pytest.raises(AccessError, match="go together"):
            read_tls(*files)
    with pytest.raises(ListenError, match="no pair"):
        await Server(Access(tls=read_tls(certificate, another_key, None)), 1).start("127.0.0.1:0")


async def test_with_mutual_tls_only_those_with_a_certificate_get_in_but_all_may_ask_for_its_health(tmp_path):
    authority = Authority(tmp_path)
    (certificate, key), client = authority.issue("worker"), authority.issue("gateway")
    server = Server(Access(tls=read_tls(certificate, key, authority.certificate)), 1)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        health_address = f"127.0.0.1:{probe.getsockname()[1]}"
    address = await server.start("127.0.0.1:0", health_address)
    name = (("grpc.ssl_target_name_override", "worker"),)

    async def ask(channel):
        async with channel:
            health = health_pb2_grpc.HealthStub(channel)
            return (await health.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)).status

    trusting = {"root_certificates": authority.certificate.read_bytes()}
    own = {"certificate_chain": client[0].read_bytes(), "private_key": client[1].read_bytes()}
    known = grpc.ssl_channel_credentials(**trusting, **own)
    assert await ask(grpc.aio.secure_channel(address, known, name)) == health_pb2.HealthCheckResponse.NOT_SERVING
    stranger = grpc.ssl_channel_credentials(**trusting)
    for channel in (grpc.aio.secure_channel(address, stranger, name), grpc.aio.insecure_channel(address)):
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(channel)
    assert await ask(grpc.aio.insecure_channel(health_address)) == health_pb2.HealthCheckResponse.NOT_SERVING
    await server.drain(0)
