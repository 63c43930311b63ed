import os
import threading

import pytest

from worker.cache.prefix_store import PrefixStore

IDENTITY = b"\2" * 32
BLOCK = b"x" * 1000
ROOM = 1 << 20


def name(number: int) -> bytes:
    return bytes([number]) * 32


def put(store: PrefixStore, *numbers: int, content: bytes = BLOCK) -> None:
    store.put({name(number): content for number in numbers}, lambda: None).result()


def fetch(store: PrefixStore, *numbers: int, size: int = len(BLOCK)) -> dict[bytes, bytes]:
    arrived, found = threading.Event(), {}

    def then(blocks):
        found.update(blocks)
        arrived.set()

    store.fetch([name(number) for number in numbers], size, then)
    assert arrived.wait(60)
    return found


@pytest.fixture
def store(tmp_path):
    store = PrefixStore(tmp_path, IDENTITY, ROOM)
    yield store
    store.close()


def files(folder) -> list:
    return sorted(folder.glob("*/*.kv"))


def test_a_stored_block_is_found_and_others_are_not(store):
    put(store, 1)
    assert name(1) in store and name(2) not in store
    assert fetch(store, 1) == {name(1): BLOCK}
    assert fetch(store, 2) == {}


def test_a_chain_is_read_up_to_its_first_gap(store):
    put(store, 1, 2, 4)
    assert list(fetch(store, 1, 2, 3, 4)) == [name(1), name(2)]


def test_blocks_survive_the_process(store, tmp_path):
    put(store, 1, 2)
    again = PrefixStore(tmp_path, IDENTITY, ROOM)
    assert list(fetch(again, 1, 2)) == [name(1), name(2)]
    again.close()


def test_another_models_blocks_are_not_seen(store, tmp_path):
    put(store, 1)
    other = PrefixStore(tmp_path, b"\3" * 32, ROOM)
    assert name(1) not in other and fetch(other, 1) == {}
    other.close()


def test_no_more_is_kept_than_allowed_and_the_longest_unused_goes(tmp_path):
    store = PrefixStore(tmp_path, IDENTITY, 5400)  # room for four
    for number in range(1, 6):
        put(store, number)
        fetch(store, 1)
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 5400
    assert name(1) in store and name(5) in store and name(2) not in store
    store.close()


def test_what_was_there_before_counts(store, tmp_path):
    put(store, *range(1, 9))
    smaller = PrefixStore(tmp_path, IDENTITY, 5400)
    put(smaller, 20)
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 5400
    assert fetch(smaller, 20)
    smaller.close()


def test_workers_that_share_a_folder_keep_to_its_size_together_and_find_each_others_blocks(tmp_path):
    stores = [PrefixStore(tmp_path, IDENTITY, 5400) for _ in range(3)]
    for number in range(1, 13):
        put(stores[number % 3], number)
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 5400
    assert list(fetch(stores[0], 10, 11, 12)) == [name(10), name(11), name(12)]
    assert name(1) not in stores[0]
    for store in stores:
        store.close()


def test_a_damaged_block_is_a_miss_and_is_removed(store, tmp_path):
    put(store, 1)
    [file] = files(tmp_path)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert fetch(store, 1) == {}
    assert name(1) not in store and not file.exists()
    put(store, 1)
    assert fetch(store, 1) == {name(1): BLOCK}


def test_a_block_under_anothers_name_is_a_miss(store, tmp_path):
    put(store, 1, 2)
    first, second = files(tmp_path)
    os.replace(first, second)
    assert fetch(store, 2) == {}


def test_a_block_of_another_size_is_a_miss(store):
    put(store, 1)
    assert fetch(store, 1, size=999) == {}


def test_a_file_that_vanished_is_a_miss(store, tmp_path):
    put(store, 1)
    files(tmp_path)[0].unlink()
    assert fetch(store, 1) == {}


def test_strange_files_are_left_alone_and_half_written_ones_removed(store, tmp_path):
    put(store, 1)
    folder = files(tmp_path)[0].parent
    (folder / "notes.txt").touch()
    (folder / "nothex.kv").touch()
    (folder / ".half.part").touch()
    (folder / f"{name(9).hex()}.kv").symlink_to("gone")  # as a file that vanishes while the folder is read
    store.close()
    again = PrefixStore(tmp_path, IDENTITY, ROOM)
    assert fetch(again, 1)
    assert (folder / "notes.txt").exists() and (folder / "nothex.kv").exists() and not (folder / ".half.part").exists()
    again.close()


def test_a_full_disk_stores_nothing_and_harms_nobody(store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("worker.cache.prefix_store.write", full)
    put(store, 1)
    assert name(1) not in store
    monkeypatch.undo()
    put(store, 1)
    assert fetch(store, 1)


def test_a_disk_that_stays_full_is_told_once_and_again_only_after_a_block_was_stored(store, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    for number in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr("worker.cache.prefix_store.write", full)
            for _ in range(5):
                put(store, 10)
        assert [record.message.partition(": ")[2] for record in caplog.records] == [
            "prefixes are not stored: No space left on device"
        ] * number
        put(store, number)


def test_a_block_larger_than_all_may_be_is_not_stored_and_the_others_stay(tmp_path, caplog):
    store = PrefixStore(tmp_path, IDENTITY, 1200)
    put(store, 1)
    put(store, 2, 3, content=BLOCK * 2)
    assert [path.stat().st_size for path in files(tmp_path)] == [1120] and name(1) in store
    assert "a block takes 2120 bytes, and all may take 1200 (--kv-store-size)" in caplog.text
    store.close()


def test_what_other_models_have_left_counts_and_goes_first_and_the_longest_unused_of_it_before_the_rest(tmp_path):
    for identity, number in ((5, 1), (6, 2)):
        left = PrefixStore(tmp_path, bytes([identity]) * 32, ROOM)
        put(left, number)
        os.utime(files(tmp_path / ".")[-1], (identity, identity))
        left.close()
    store = PrefixStore(tmp_path, IDENTITY, 4500)  # room for four
    for number, folders in enumerate((["02", "05", "06"], ["02", "05", "06"], ["02", "06"], ["02"], ["02"]), 1):
        put(store, number)
        assert sorted(path.name[:2] for path in tmp_path.iterdir()) == folders
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 4500
    assert name(2) in store and name(1) not in store
    store.close()


def test_what_another_model_stores_that_is_in_use_is_neither_counted_nor_removed(tmp_path):
    other = PrefixStore(tmp_path, b"\6" * 32, ROOM)
    put(other, *range(1, 9))
    store = PrefixStore(tmp_path, IDENTITY, 2300)  # room for two
    put(store, 1, 2, 3)
    assert len(fetch(other, *range(1, 9))) == 8 and list(fetch(store, 2, 3)) == [name(2), name(3)]
    other.close()
    store.close()


def test_what_is_in_use_again_is_not_removed(tmp_path):
    other = PrefixStore(tmp_path, b"\6" * 32, ROOM)
    put(other, 1)
    other.close()
    store = PrefixStore(tmp_path, IDENTITY, 1 << 14)
    other = PrefixStore(tmp_path, b"\6" * 32, ROOM)
    put(store, *range(1, 20))
    assert fetch(other, 1)
    other.close()
    store.close()
