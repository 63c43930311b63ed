import re

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from router.errors import Overloaded, WorkerLost
from router.http.boundary import BodyLimit, BrokenAnswer, Envelope, ErrorBoundary
from tests.router.gateways import config, running

pytestmark = pytest.mark.anyio


async def echo(request: Request) -> Response:
    return Response(await request.body(), headers={"x-seen": request.state.request_id})


async def fault(request: Request) -> Response:
    raise RuntimeError("secret detail")


async def overloaded(request: Request) -> Response:
    raise Overloaded("full", 3)


async def cut(request: Request) -> Response:
    async def body():
        yield b"half"
        raise WorkerLost("gone")

    return StreamingResponse(body())


def client() -> httpx.AsyncClient:
    routes = [Route(f"/{each.__name__}", each, methods=["POST"]) for each in (echo, fault, overloaded, cut)]
    layers = [Middleware(Envelope, draining=lambda: False), Middleware(ErrorBoundary), Middleware(BodyLimit, limit=10)]
    transport = httpx.ASGITransport(Starlette(routes=routes, middleware=layers), raise_app_exceptions=True)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_a_fault_of_ours_is_an_envelope_without_its_cause_which_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = await client().post("/fault", headers={"x-request-id": "abc-1"})
    assert answer.status_code == 500
    assert answer.json() == {"error": {"code": 500, "message": "internal error", "type": "server_error"}}
    assert "abc-1" in caplog.text and "secret detail" in caplog.text


async def test_a_router_error_keeps_its_status_and_headers() -> None:
    answer = await client().post("/overloaded")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")


async def test_an_answer_that_breaks_off_does_not_look_complete() -> None:
    with pytest.raises(BrokenAnswer):
        await client().post("/cut")


async def test_a_harmless_request_id_is_kept() -> None:
    answer = await client().post("/echo", headers={"x-request-id": "Abc-123"})
    assert answer.headers["x-request-id"] == answer.headers["x-seen"] == "Abc-123"


@pytest.mark.parametrize("given", ["a b", "x" * 65, "a;b", "../../etc"])
async def test_another_request_id_is_replaced(given: str) -> None:
    answer = await client().post("/echo", headers={"x-request-id": given})
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_a_body_up_to_the_limit_passes() -> None:
    assert (await client().post("/echo", content=b"x" * 10)).content == b"x" * 10


async def test_a_larger_body_is_refused_whether_announced_or_not() -> None:
    async def chunks():
        for _ in range(3):
            yield b"x" * 5

    for content in (b"x" * 11, chunks()):
        answer = await client().post("/echo", content=content)
        assert answer.status_code == 413
        assert answer.json()["error"]["message"] == "request body is larger than 10 bytes"


async def test_a_larger_body_is_refused_by_the_whole_gateway() -> None:
    async with running(config("a", body_limit=1000)) as gateway:
        answer = await gateway.client.post("/v1/chat/completions", content=b"x" * 2000)
        assert answer.status_code == 413
        assert (await gateway.client.get("/health")).status_code == 200
