"""Folders of a prefix store that come and go with the workers that use them."""

import fcntl
import shutil

import pytest

from worker.cache.store_folders import SUFFIX, blocks_in, claim, leftovers, remove_leftover

OWN, OTHER, BLOCK = "a" * 32, "b" * 32, "0" * 64 + SUFFIX


@pytest.fixture
def left(tmp_path):
    """A folder that nobody uses any more, with one block."""
    claim(tmp_path / OTHER).close()
    (tmp_path / OTHER / BLOCK).write_bytes(b"12345")
    return tmp_path / OTHER


def test_a_folder_that_nobody_uses_is_left_over_until_somebody_does(left, tmp_path):
    [block] = leftovers(tmp_path / OWN)
    assert (block.path, block.num_bytes) == (left / BLOCK, 5)
    uses = [claim(left), claim(left)]
    for use in uses:
        assert leftovers(tmp_path / OWN) == []
        remove_leftover(block)
        assert block.path.exists()
        use.close()
    assert leftovers(tmp_path / OWN) == [block]


def test_a_folder_goes_with_its_last_block(left, tmp_path):
    (left / ".half.part").touch()
    (left / ("1" * 64 + SUFFIX)).touch()
    for block in leftovers(tmp_path / OWN):
        assert left.exists()
        remove_leftover(block)
    assert not left.exists()


def test_an_empty_folder_that_nobody_uses_is_removed(tmp_path):
    claim(tmp_path / OTHER).close()
    assert leftovers(tmp_path / OWN) == [] and not (tmp_path / OTHER).exists()


def test_what_is_not_ours_is_left_alone(left, tmp_path):
    (left / "notes.txt").touch()
    (left / "nothex.kv").touch()
    for name in ("c" * 32, "photos"):
        (tmp_path / name).mkdir()
        (tmp_path / name / BLOCK).touch()
    (tmp_path / ("d" * 32)).symlink_to(left, target_is_directory=True)
    (tmp_path / ("e" * 32)).touch()
    [block] = leftovers(tmp_path / OWN)
    remove_leftover(block)
    assert sorted(path.name for path in left.iterdir()) == ["notes.txt", "nothex.kv"]
    assert [len(blocks_in(tmp_path / name)) for name in ("c" * 32, "photos")] == [1, 1]
    assert leftovers(tmp_path / OWN) == []


def test_a_folder_that_is_removed_while_it_is_claimed_is_made_again(left, monkeypatch):
    real, calls = fcntl.flock, []

    def flock(lock, kind):
        real(lock, kind)
        calls.append(kind)
        if len(calls) == 2:  # before it is known to be ours
            shutil.rmtree(left)

    monkeypatch.setattr("worker.cache.store_folders.fcntl.flock", flock)
    with claim(left):
        assert left.exists() and len(calls) == 4
        assert leftovers(left.parent / OWN) == []


def test_without_locks_everything_is_in_use(left, tmp_path, monkeypatch):
    def flock(lock, kind):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("worker.cache.store_folders.fcntl.flock", flock)
    with claim(tmp_path / OWN):
        assert (tmp_path / OWN).exists() and leftovers(tmp_path / OWN) == [] and (left / BLOCK).exists()
