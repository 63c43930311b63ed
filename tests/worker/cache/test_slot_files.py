import tracemalloc

import pytest

from worker.cache.slot_files import SavedPrefix, SlotFiles
from worker.errors import InvalidRequest

IDENTITY = bytes(32)
SAVED = SavedPrefix(list(range(8)), [b"a" * 10, b"b" * 10])


@pytest.fixture
def files(tmp_path):
    return SlotFiles(tmp_path / "slots", IDENTITY)


def load(files, name, max_blocks=2, block_bytes=10):
    return files.load(name, 4, max_blocks, block_bytes)[0]


def test_what_was_saved_is_loaded(files):
    files.save("first.bin", SAVED)
    assert load(files, "first.bin") == SAVED


def test_as_many_bytes_are_read_as_were_written(files, tmp_path):
    num_written = files.save("a", SAVED)
    assert files.load("a", 4, 2, 10)[1] == num_written == (tmp_path / "slots" / "a").stat().st_size


def test_a_large_file_is_in_memory_once_while_it_is_loaded(files):
    num_blocks, block_bytes = 64, 1 << 16
    size = files.save("a", SavedPrefix(list(range(4 * num_blocks)), [bytes(block_bytes)] * num_blocks))
    tracemalloc.start()
    saved, _ = files.load("a", 4, 1 << 20, block_bytes)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(saved.blocks) == num_blocks and most < 1.2 * size


def test_nothing_can_be_saved(files):
    files.save("nothing", SavedPrefix((), ()))
    assert load(files, "nothing") == SavedPrefix([], [])


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "/etc/passwd", "..\\x", "a\0b", "a\nb", "C:x", "x" * 201, "ä" * 101]
)
def test_a_name_that_leads_elsewhere_is_refused(files, name):
    for act in (lambda: files.save(name, SAVED), lambda: load(files, name)):
        with pytest.raises(InvalidRequest, match="Invalid filename"):
            act()


@pytest.mark.parametrize("name", ["slot1.bin", "a name", "früh", "x" * 200])
def test_usual_names_are_fine(files, name):
    files.save(name, SAVED)
    assert load(files, name) == SAVED


def test_a_prefix_of_another_model_or_size_is_refused(files, tmp_path):
    files.save("a", SAVED)
    with pytest.raises(InvalidRequest, match="another model"):
        load(SlotFiles(tmp_path / "slots", b"\1" * 32), "a")
    for changes in ({"block_bytes": 9}, {"block_bytes": 20}, {"max_blocks": 0, "block_bytes": 1}):
        with pytest.raises(InvalidRequest, match="Unable to restore"):
            load(files, "a", **changes)


def test_an_absent_file_is_the_clients_mistake(files):
    with pytest.raises(InvalidRequest, match="No such file"):
        load(files, "absent")


def test_a_link_out_of_the_folder_is_not_followed(files, tmp_path):
    files.save("a", SAVED)
    (tmp_path / "slots" / "a").rename(tmp_path / "outside")
    (tmp_path / "slots" / "a").symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidRequest):
        load(files, "a")
    files.save("a", SAVED)
    assert not (tmp_path / "slots" / "a").is_symlink()
