import os

import pytest

from worker.cache.kv_file import Unusable, read, write

IDENTITY, OTHER = bytes(32), b"\1" * 32


def test_what_was_written_is_read(tmp_path):
    size = write(tmp_path / "a", IDENTITY, b"key", [b"pay", b"load"])
    assert size == (tmp_path / "a").stat().st_size
    assert read(tmp_path / "a", IDENTITY, size) == (b"key", b"payload")


def test_only_its_owner_may_read_a_file(tmp_path):
    write(tmp_path / "a", IDENTITY, b"", [])
    assert (tmp_path / "a").stat().st_mode & 0o077 == 0


def test_writing_again_replaces_and_leaves_nothing_else(tmp_path):
    write(tmp_path / "a", IDENTITY, b"key", [b"old"])
    write(tmp_path / "a", IDENTITY, b"key", [b"new"])
    assert read(tmp_path / "a", IDENTITY, 1000) == (b"key", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_write_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError):
        write(tmp_path / "a", IDENTITY, b"key", [b"x"])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("place", range(92))
def test_any_changed_byte_is_noticed(tmp_path, place):
    size = write(tmp_path / "a", IDENTITY, b"key", [b"payload"])
    assert size == 98
    content = bytearray((tmp_path / "a").read_bytes())
    content[place] ^= 0x40
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(Unusable):
        read(tmp_path / "a", IDENTITY, 1000)


@pytest.mark.parametrize("length", range(0, 98, 7))
def test_a_file_that_was_cut_off_is_noticed(tmp_path, length):
    write(tmp_path / "a", IDENTITY, b"key", [b"payload"])
    os.truncate(tmp_path / "a", length)
    with pytest.raises(Unusable, match="cut off"):
        read(tmp_path / "a", IDENTITY, 1000)


def test_bytes_cannot_move_from_key_to_payload(tmp_path):
    write(tmp_path / "a", IDENTITY, b"key", [b"payload"])
    content = bytearray((tmp_path / "a").read_bytes())
    content[72:88] = (4).to_bytes(8, "little") + (6).to_bytes(8, "little")
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(Unusable, match="damaged"):
        read(tmp_path / "a", IDENTITY, 1000)


def test_a_file_of_another_model_is_refused(tmp_path):
    write(tmp_path / "a", OTHER, b"key", [b"payload"])
    with pytest.raises(Unusable, match="another model"):
        read(tmp_path / "a", IDENTITY, 1000)


def test_no_more_is_read_than_was_agreed(tmp_path):
    size = write(tmp_path / "a", IDENTITY, b"key", [b"payload"])
    with pytest.raises(Unusable, match=f"larger than {size - 1} bytes"):
        read(tmp_path / "a", IDENTITY, size - 1)


def test_links_pipes_and_folders_are_no_files(tmp_path):
    write(tmp_path / "a", IDENTITY, b"key", [b"payload"])
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder", "absent"):
        with pytest.raises(Unusable):
            read(tmp_path / name, IDENTITY, 1000)
