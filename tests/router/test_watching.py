"""Files that change: what counts as a change, when it is acted on, and a gateway that takes one into force."""

import asyncio
import os
from pathlib import Path

import httpx
import pytest

from router import watching
from router.watching import Watcher
from tests.router.test_serve import serving, until


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "corral.toml"
    file.write_text("old")
    return file


def looks(watcher: Watcher, num: int = 3) -> list[bool]:
    return [watcher.look() for _ in range(num)]


def test_a_file_that_stays_is_not_read_again(file: Path) -> None:
    assert looks(Watcher(lambda: [file])) == [False] * 3


def test_a_change_is_acted_on_once_when_it_has_settled(file: Path) -> None:
    watcher = Watcher(lambda: [file])
    file.write_text("new and longer")
    assert looks(watcher) == [False, True, False]


def test_a_file_that_is_still_being_written_is_left_alone(file: Path) -> None:
    watcher = Watcher(lambda: [file])
    for part in range(4):
        with file.open("a") as opened:
            opened.write("more" * (part + 1))
        assert not watcher.look()
    assert looks(watcher) == [True, False, False]


def test_editors_that_rename_are_seen_and_so_is_the_moment_without_a_file(file: Path) -> None:
    watcher = Watcher(lambda: [file])
    file.rename(file.with_suffix(".backup"))
    assert not watcher.look()
    new = file.with_suffix(".new")
    new.write_text("old")
    new.rename(file)
    assert looks(watcher) == [False, True, False]


def test_a_link_that_is_switched_behind_the_files_name_is_seen(tmp_path: Path) -> None:
    """As Kubernetes changes a ConfigMap: name -> ..data/name, and ..data -> a folder for each version."""
    for version in ("..1", "..2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "corral.toml").write_text("as long")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "corral.toml").symlink_to("..data/corral.toml")
    watcher = Watcher(lambda: [tmp_path / "corral.toml"])
    (tmp_path / "..new").symlink_to("..2")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    assert looks(watcher) == [False, True, False]


@pytest.mark.parametrize("name", ["new.gguf", "folder/new.gguf"])
def test_a_model_that_comes_into_a_folder_is_seen(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    watcher = Watcher(lambda: [tmp_path])
    (tmp_path / name).write_bytes(b"GGUF")
    assert looks(watcher) == [False, True, False]


def test_files_that_a_new_configuration_names_are_watched_from_then_on(file: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text("a")
    files = [file]
    watcher = Watcher(lambda: files)
    files.append(keys)
    assert looks(watcher) == [False] * 3
    keys.write_text("another")
    assert looks(watcher) == [False, True, False]


@pytest.mark.parametrize("num_looks", [0, 1, 5], ids=lambda num: f"after {num} looks")
def test_a_file_that_was_missed_is_acted_on_once_when_it_has_come(file: Path, num_looks: int) -> None:
    missed = file.with_name("missed.gguf")
    watcher = Watcher(lambda: [file], lambda: missed)
    assert not any(looks(watcher, num_looks))
    missed.write_bytes(b"GGUF")
    assert looks(watcher, 5).count(True) == 1


def test_a_file_that_is_there_but_no_good_is_tried_again_when_it_changes(file: Path) -> None:
    wrong, awaited = file.with_name("keys.toml"), list[Path]()
    wrong.write_text("[a]")
    watcher = Watcher(lambda: [file], lambda: next(iter(awaited), None))
    awaited.append(wrong)
    assert looks(watcher, 5).count(True) == 1, "it may have been put right since it was read"
    wrong.chmod(0o400)
    assert looks(watcher) == [False, True, False]


def test_a_configuration_refused_for_a_missing_file_comes_into_force_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    file, good = tmp_path / "corral.toml", '[models.a]\npath = "a.gguf"\n'
    file.write_text(good)
    with serving("--config", str(file)) as command:
        command.ready()
        file.write_text(f'{good}[models.b]\npath = "b.gguf"\n')
        until(lambda: "reload refused" in command.output)
        (tmp_path / "b.gguf").write_bytes(b"GGUF")
        until(lambda: "reloaded: model b: start" in command.output)


def test_a_gateway_takes_a_changed_file_into_force_and_refuses_a_wrong_one_once(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    file, good = tmp_path / "corral.toml", '[models.a]\npath = "a.gguf"\n'
    file.write_text(good)
    with serving("--config", str(file)) as command, httpx.Client(base_url=command.ready(), trust_env=False) as http:
        workers = {worker.pid for worker in command.workers()}
        file.write_text(f'{good}ttl = "soon"\n')
        until(lambda: "reload refused, the old configuration stays" in command.output)
        new = tmp_path / "new.toml"
        new.write_text(f'{good}[aliases]\nchat = "a"\n')
        new.rename(file)
        until(lambda: "reloaded: alias chat new: in place" in command.output)
        assert {model["id"] for model in http.get("/v1/models").json()["data"]} == {"a", "chat"}
        assert command.output.count("reload refused") == 1
        assert {worker.pid for worker in command.workers()} == workers


def test_watching_goes_on_after_a_file_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    file, good = tmp_path / "corral.toml", '[models.a]\npath = "a.gguf"\n'
    file.write_text(good)
    with serving("--config", str(file)) as command:
        command.ready()
        for num_refused, text in enumerate(('[models.m]\npath = "\\u0000"\n', f"x = {'[' * 20_000}"), 1):
            file.write_text(text)
            until(lambda num=num_refused: command.output.count("reload refused") == num)
        file.write_text(f'{good}[aliases]\nchat = "a"\n')
        until(lambda: "reloaded: alias chat new: in place" in command.output)


@pytest.mark.anyio
async def test_watching_goes_on_after_an_unexpected_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching, "INTERVAL", 0.0)
    acted, errors = asyncio.Event(), [ValueError("nobody thought of this")]

    class Changing(Watcher):
        def look(self) -> bool:
            return True

    def act() -> None:
        if errors:
            raise errors.pop()
        acted.set()

    task = asyncio.create_task(watching.watch(Changing(lambda: []), act))
    try:
        await asyncio.wait_for(acted.wait(), 30)
    finally:
        task.cancel()
    assert "nobody thought of this" in caplog.text
