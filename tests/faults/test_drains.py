"""`corral serve` told to stop: what is under way ends, what takes too long is cut, and nothing is left behind."""

import signal
from pathlib import Path

import httpx
import pytest

from tests.router.test_serve import Stream, get, gone, serving, until

NUM_STREAMS = 32


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    return str(path)


def test_thirty_two_streams_end_as_if_nothing_had_happened(model: str) -> None:
    """F30. Until the port closes new requests are taken, and /ready says that no more should come."""
    with serving("-m", model, "--lame-duck", "2") as command:
        url = command.ready()
        workers = command.workers()
        streams = [Stream(url, "stop_at=30 delay=0.1") for _ in range(NUM_STREAMS)]
        command.process.send_signal(signal.SIGTERM)
        until(lambda: get(f"{url}/ready") == 503)
        late = httpx.post(f"{url}/v1/completions", json={"prompt": "stop_at=1"}, trust_env=False)
        assert (late.status_code, late.headers["connection"]) == (200, "close")
        assert [stream.end()[-1] for stream in streams] == ["[DONE]"] * NUM_STREAMS
        assert all(stream.error is None for stream in streams)
        assert command.end() == 0
        assert gone(workers)
        with pytest.raises(httpx.ConnectError):
            get(f"{url}/health")
