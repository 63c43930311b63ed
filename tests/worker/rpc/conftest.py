import pytest

from tests.worker.rpc.serving import serving


@pytest.fixture
async def worker(tmp_path):
    async with serving(tmp_path) as worker:
        yield worker
