from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from router.downloads.download import fetch_url
from router.errors import CommandError
from tests.router.fileserver import FileServer

BODY = bytes(range(256)) * 40_000  # 10 MB


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({"/m.gguf": BODY}, {"/m.gguf": '"v1"'}).running() as running:
        yield running


def fetch(server: FileServer, target: Path, path: str = "/m.gguf") -> list[tuple[int, int | None]]:
    steps: list[tuple[int, int | None]] = []
    with httpx.Client(trust_env=False) as client:
        fetch_url(client, server.url + path, target, {}, lambda done, total: steps.append((done, total)))
    return steps


def ranges(server: FileServer) -> list[str]:
    return [headers.get("range", "") for _, headers in server.requests]


def test_a_file_arrives_whole_and_tells_how_far_it_is(server: FileServer, tmp_path: Path) -> None:
    steps = fetch(server, tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == BODY
    assert steps[-1] == (len(BODY), len(BODY))
    assert list(tmp_path.iterdir()) == [tmp_path / "m"]


def test_an_interruption_is_survived_and_nothing_fetched_twice(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = [3_000_000, 2_000_000]
    fetch(server, tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == BODY
    assert ranges(server) == ["", "bytes=3000000-", "bytes=5000000-"]


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = [1_000_000, 0, 0, 0, 0, 0]
    with pytest.raises(CommandError, match=r"1000000 bytes are kept, the same command goes on from there"):
        fetch(server, tmp_path / "m")
    fetch(server, tmp_path / "m")
    assert ranges(server)[-1] == "bytes=1000000-"
    assert (tmp_path / "m").read_bytes() == BODY


def test_bytes_of_two_versions_are_never_joined(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = [1_000_000, 0, 0, 0, 0, 0]
    with pytest.raises(CommandError):
        fetch(server, tmp_path / "m")
    server.files["/m.gguf"], server.tags["/m.gguf"] = BODY[::-1], '"v2"'
    fetch(server, tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == BODY[::-1]


@pytest.mark.parametrize("tag", ["", 'W/"v1"'])
def test_without_a_strong_mark_of_the_version_it_begins_anew(server: FileServer, tmp_path: Path, tag: str) -> None:
    server.tags["/m.gguf"] = tag
    server.cut_after = [1_000_000]
    fetch(server, tmp_path / "m")
    assert ranges(server) == ["", ""]
    assert (tmp_path / "m").read_bytes() == BODY


def test_a_server_without_ranges_is_fine(server: FileServer, tmp_path: Path) -> None:
    server.ranges = False
    server.cut_after = [1_000_000]
    fetch(server, tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == BODY


def test_a_file_that_shrank_is_fetched_anew(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = [5_000_000, 0, 0, 0, 0, 0]
    with pytest.raises(CommandError):
        fetch(server, tmp_path / "m")
    server.files["/m.gguf"] = BODY[:1000]
    fetch(server, tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == BODY[:1000]


def test_an_absent_file_is_one_line(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"/absent: 404 Not Found$"):
        fetch(server, tmp_path / "m", "/absent")


def test_a_server_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"^cannot reach 127\.0\.0\.1 .*catalogue"):
        fetch(FileServer(url="http://127.0.0.1:1"), tmp_path / "m")
