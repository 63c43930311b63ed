"""Gateways beside and after each other: on the same port, in the same folder for what runs."""

import os
from pathlib import Path

import pytest

from tests.router.test_serve import Stream, get, gone, serving, until


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    return str(path)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a folder for what runs that no other test uses."""
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    return {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}


def test_a_second_gateway_on_the_port_refuses_and_the_first_does_not_notice(
    model: str, environment: dict[str, str]
) -> None:
    """F42."""
    with serving("-m", model, environment=environment) as first:
        url = first.ready()
        workers = first.workers()
        stream = Stream(url, "stop_at=50 delay=0.1")
        with serving("-m", model, "--port", url.rpartition(":")[2], environment=environment) as second:
            assert second.end() != 0
            [line] = second.lines
            assert line.startswith("error: ") and url.rpartition(":")[2] in line
        assert stream.end()[-1] == "[DONE]"
        assert first.workers() == workers


def test_two_gateways_in_one_folder_have_workers_of_their_own(model: str, environment: dict[str, str]) -> None:
    """F42."""
    with serving("-m", model, environment=environment) as first:
        url = first.ready()
        with serving("-m", model, environment=environment) as second:
            second.ready()
            assert not set(first.workers()) & set(second.workers())
        assert get(f"{url}/health") == 200
        assert Stream(url, "stop_at=3").end()[-1] == "[DONE]"


def test_after_a_gateway_was_killed_the_next_one_has_its_port_at_once(model: str, environment: dict[str, str]) -> None:
    """F9. Its workers have ended with it, and nothing of it is left in the way."""
    with serving("-m", model, environment=environment) as killed:
        url = killed.ready()
        workers = killed.workers()
        killed.process.kill()
        killed.end()
    until(lambda: gone(workers))
    [folder] = Path(environment["XDG_RUNTIME_DIR"]).iterdir()
    os.utime(folder, (0, 0))  # a young one may be that of a gateway that is just starting
    with serving("-m", model, "--port", url.rpartition(":")[2], environment=environment) as next_one:
        assert next_one.ready() == url
        assert Stream(url, "stop_at=3").end()[-1] == "[DONE]"
        assert not folder.exists()
