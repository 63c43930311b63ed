import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from router.downloads.modelstore import ModelStore, cache_folder
from router.errors import CommandError

BODY = b"GGUF" + bytes(1000)
SHA256 = hashlib.sha256(BODY).hexdigest()
SOURCE = "http://host/m.gguf"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def put(store: ModelStore, body: bytes = BODY, sha256: str | None = SHA256) -> Path:
    store.partial("m.gguf").write_bytes(body)
    return store.accept("m.gguf", SOURCE, sha256)


def test_a_checked_file_gets_its_name_and_is_there(store: ModelStore) -> None:
    assert not store.has("m.gguf", SOURCE, SHA256)
    assert put(store).read_bytes() == BODY
    assert store.has("m.gguf", SOURCE, SHA256)
    assert not store.partial("m.gguf").exists()


@pytest.mark.parametrize(
    ("body", "words"), [(b"GGUF damaged", "damaged"), (b"<html>", "not a GGUF file"), (b"", "not a GGUF file")]
)
def test_a_wrong_file_never_gets_the_name(store: ModelStore, body: bytes, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        put(store, body)
    assert [path.name for path in store.folder.iterdir()] == []


def test_a_wrong_file_does_not_replace_a_right_one(store: ModelStore) -> None:
    put(store)
    with pytest.raises(CommandError):
        put(store, b"GGUF damaged")
    assert store.path("m.gguf").read_bytes() == BODY
    assert store.has("m.gguf", SOURCE, SHA256)


def test_a_file_that_changed_since_is_not_trusted(store: ModelStore) -> None:
    path = put(store)
    path.write_bytes(b"GGUF" + bytes(999) + b"x")
    assert not store.has("m.gguf", SOURCE, SHA256)


def test_a_file_that_was_only_touched_is(store: ModelStore) -> None:
    os.utime(put(store), (1, 1))
    assert store.has("m.gguf", SOURCE, SHA256)
    assert store.has("m.gguf", SOURCE)


def test_a_file_without_a_record_is_adopted_if_it_is_the_right_one(store: ModelStore) -> None:
    store.path("m.gguf").write_bytes(BODY)
    assert not store.has("m.gguf", SOURCE)
    assert not store.has("m.gguf", SOURCE, "0" * 64)
    assert store.has("m.gguf", SOURCE, SHA256)
    assert store.has("m.gguf", SOURCE)


def test_another_source_does_not_get_a_file_of_the_same_name(store: ModelStore) -> None:
    put(store)
    with pytest.raises(CommandError, match=f"is there already, from {SOURCE}"):
        store.has("m.gguf", "http://other/m.gguf")


def test_a_broken_record_is_as_good_as_none(store: ModelStore) -> None:
    put(store)
    (store.folder / "m.gguf.json").write_text("[1]")
    assert store.has("m.gguf", SOURCE, SHA256)


def test_two_processes_do_not_fetch_one_file_at_once(store: ModelStore) -> None:
    program = (
        "import sys; from pathlib import Path; from router.downloads.modelstore import ModelStore\n"
        "with ModelStore(Path(sys.argv[1])).locked('m.gguf', lambda: print('waiting', flush=True)): print('in')"
    )
    with store.locked("m.gguf", lambda: None):
        command = [sys.executable, "-c", program, str(store.folder)]
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "waiting\n"
    assert other.communicate(timeout=120)[0] == "in\n"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match=r"cannot create .*file/models"):
        ModelStore(tmp_path / "file" / "models")


def test_the_cache_folder_is_ours_then_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder({"CORRAL_CACHE": "/big", "XDG_CACHE_HOME": "/x"}) == Path("/big")
    assert cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/corral")
    assert cache_folder({"XDG_CACHE_HOME": "relative"}) == Path("/home/someone/.cache/corral")
    assert cache_folder({}) == Path("/home/someone/.cache/corral")
