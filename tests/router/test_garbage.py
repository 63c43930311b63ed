"""What an answered request leaves behind."""

import gc

import pytest

from router.call import Call
from tests.router.gateways import config, running

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answered_request_is_freed_without_the_garbage_collector(stream: bool) -> None:
    body = {"messages": [{"role": "user", "content": "stop_at=2"}], "stream": stream}
    async with running(config("tiny")) as gateway:
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                assert (await gateway.client.post("/v1/chat/completions", json=body)).status_code == 200
            # Not isinstance, which asks a proxy for its object's class, be there such an object still or not.
            kept = sum(type(each) is Call for each in gc.get_objects())
        finally:
            gc.enable()
    assert kept <= 1  # of the latest request, as long as its connection has no other
