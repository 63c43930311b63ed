import hashlib
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from router.downloads.modelstore import ModelStore
from router.downloads.pull import Puller, main
from router.errors import CommandError
from tests.router.fileserver import FileServer

BODY = b"GGUF" + bytes(100_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CORRAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({"/files/m.gguf": BODY}).running() as running:
        yield running


def test_a_url_is_fetched_once_and_its_path_is_the_last_line(
    server: FileServer, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert main([f"{server.url}/files/m.gguf"]) == 0
        assert capsys.readouterr().out == f"{cache}/models/m.gguf\n"
    assert (cache / "models" / "m.gguf").read_bytes() == BODY
    assert len(server.requests) == 1


def test_a_wrong_checksum_is_refused_and_nothing_kept(
    server: FileServer, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"{server.url}/files/m.gguf", "--sha256", "0" * 64]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"damaged: its sha256 is {SHA256}" in captured.err
    assert not list((cache / "models").glob("m.gguf*"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("smolm2", "did you mean 'smollm2'?"),
        ("http://host/", "must end in a file name"),
        ("http://host/%2e%2e", "must end in a file name"),
        ("hf:nobody", "is what is needed"),
    ],
)
def test_a_mistaken_source_is_one_line(source: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([source]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("error: ") and error.count("\n") == 1


def repository(server: FileServer, *files: tuple[str, bytes]) -> None:
    siblings = [
        {"rfilename": path, "size": len(body), "lfs": {"sha256": hashlib.sha256(body).hexdigest()}}
        for path, body in files
    ]
    siblings.append({"rfilename": "README.md", "size": 3})
    server.files["/api/models/user/repo"] = orjson.dumps({"siblings": siblings})
    server.files |= {f"/user/repo/resolve/main/{path}": body for path, body in files}


def pull(
    server: FileServer, cache: Path, source: str, name: str | None = None, *, offline: bool = False, **environment: str
) -> Path:
    with Puller(ModelStore(cache / "models"), server.url, environment, offline=offline) as puller:
        return puller.hugging_face(source, name)


def test_a_repository_gives_the_quant_that_was_asked_for(server: FileServer, cache: Path) -> None:
    repository(server, ("m-Q4_K_M.gguf", BODY), ("m-Q8_0.gguf", BODY + b"8"))
    assert pull(server, cache, "hf:user/repo").read_bytes() == BODY
    path = pull(server, cache, "hf:user/repo:q8_0", HF_TOKEN="hf_secret")
    assert (path.name, path.read_bytes()) == ("user--repo--m-Q8_0.gguf", BODY + b"8")
    assert server.requests[-1][1]["authorization"] == "Bearer hf_secret"


def test_a_repository_gives_the_file_that_was_named(server: FileServer, cache: Path) -> None:
    repository(server, ("m-Q4_K_M.gguf", BODY), ("other/m-Q8_0.gguf", BODY + b"8"))
    for name in ("m-Q8_0.gguf", "other/m-Q8_0.gguf"):
        assert pull(server, cache, "hf:user/repo", name).read_bytes() == BODY + b"8"
    with pytest.raises(CommandError, match=r"no file Q8_0\.gguf \(it has m-Q4_K_M\.gguf, other/m-Q8_0\.gguf\)"):
        pull(server, cache, "hf:user/repo", "Q8_0.gguf")


def test_offline_finds_what_was_fetched_before_and_fetches_nothing(server: FileServer, cache: Path) -> None:
    repository(server, ("a/m-Q4_K_M.gguf", BODY), ("b/m-Q8_0.gguf", BODY + b"8"))
    with pytest.raises(CommandError, match=r"^hf:user/repo was not fetched before, and --offline forbids it now"):
        pull(server, cache, "hf:user/repo", offline=True)
    fetched = pull(server, cache, "hf:user/repo:Q8_0")
    num_requests = len(server.requests)
    assert pull(server, cache, "hf:user/repo:Q8_0", offline=True) == fetched
    assert pull(server, cache, "hf:user/repo", "b/m-Q8_0.gguf", offline=True) == fetched
    with pytest.raises(CommandError, match="has no Q4_K_M"):
        pull(server, cache, "hf:user/repo:Q4_K_M", offline=True)
    assert len(server.requests) == num_requests


def test_offline_takes_a_url_only_from_the_store(
    server: FileServer, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{server.url}/files/m.gguf"
    assert main([url, "--offline"]) == 1 and "was not fetched before" in capsys.readouterr().err
    assert main([url]) == main([url, "--offline"]) == 0
    assert len(server.requests) == 1


def test_a_split_model_comes_whole_and_its_first_part_is_the_path(server: FileServer, cache: Path) -> None:
    parts = [(f"m-Q4_K_M-0000{number}-of-00002.gguf", BODY + bytes([number])) for number in (1, 2)]
    repository(server, *parts)
    path = pull(server, cache, "hf:user/repo")
    assert path.name == "user--repo--m-Q4_K_M-00001-of-00002.gguf"
    assert path.with_name("user--repo--m-Q4_K_M-00002-of-00002.gguf").read_bytes() == BODY + b"\x02"


def test_a_file_that_is_not_what_the_repository_says_is_refused(server: FileServer, cache: Path) -> None:
    repository(server, ("m-Q4_K_M.gguf", BODY))
    server.files["/user/repo/resolve/main/m-Q4_K_M.gguf"] = BODY[:-1] + b"x"
    with pytest.raises(CommandError, match="damaged"):
        pull(server, cache, "hf:user/repo")


def test_an_absent_repository_and_an_unreachable_one_are_one_line(server: FileServer, cache: Path) -> None:
    with pytest.raises(CommandError, match="no such repository, or it needs a token"):
        pull(server, cache, "hf:user/absent")
    with pytest.raises(CommandError, match=r"^cannot reach 127\.0\.0\.1"):
        pull(FileServer(url="http://127.0.0.1:1"), cache, "hf:user/repo")
