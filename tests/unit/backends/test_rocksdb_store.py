"""RocksDB through rocksdict: order, frozen views, links, and what is said when the disk fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rocksdict import WriteBatch

from moorage.backends.rocksdb_environment import RocksDbEnvironment, RocksDbMemory
from moorage.backends.rocksdb_store import RocksDbStore
from moorage.errors import CorruptDataError, StateStoreError


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[RocksDbEnvironment]:
    environment = RocksDbEnvironment(tmp_path / "state", RocksDbMemory.within(16 << 20))
    yield environment
    environment.close()


@pytest.fixture
def store(environment: RocksDbEnvironment, tmp_path: Path) -> Iterator[RocksDbStore]:
    store = RocksDbStore(tmp_path / "db", environment.options())
    yield store
    store.close()


def write(store: RocksDbStore, entries: dict[bytes, bytes]) -> None:
    batch = WriteBatch(raw_mode=True)
    for key, value in entries.items():
        batch[key] = value
    store.write(batch)


ENTRIES = {b"\x00\x01a": b"1", b"\x00\x01b": b"2", b"\x00\x02a": b"3", b"\xff\xfe": b"4"}


def test_values_come_in_the_order_of_the_keys_asked_for(store: RocksDbStore) -> None:
    write(store, ENTRIES)
    assert list(store.get([b"\x00\x02a", b"none", b"\x00\x01a"])) == [b"3", None, b"1"]


def test_a_scan_ends_before_its_end(store: RocksDbStore) -> None:
    write(store, ENTRIES)
    assert dict(store.scan(b"\x00\x01", b"\x00\x02")) == {b"\x00\x01a": b"1", b"\x00\x01b": b"2"}
    assert dict(store.scan(b"", None)) == ENTRIES


def test_which_prefixes_have_keys_is_found_in_one_pass(store: RocksDbStore) -> None:
    write(store, ENTRIES | {b"\x00\x03b" + bytes([n]): b"" for n in range(9)})
    gone = WriteBatch(raw_mode=True)
    gone.delete(b"\x00\x01b")
    store.write(gone)
    prefixes = [b"\x00\x01a", b"\x00\x01b", b"\x00\x02", b"\x00\x03a", b"\x00\x03b", b"\x00\x03c"]
    assert store.begun(prefixes, b"\x00\x04") == [True, False, True, False, True, False]
    assert store.begun(prefixes[:2], b"\x00\x01c") == [True, False]


def test_a_frozen_view_stays_as_it_was(store: RocksDbStore) -> None:
    write(store, ENTRIES)
    scan = store.frozen()
    write(store, {b"\x00\x01a": b"changed", b"\x00\x01c": b"new"})
    seen: list[dict[bytes, bytes]] = []
    thread = threading.Thread(target=lambda: seen.append(dict(scan(b"", None))))
    thread.start()
    thread.join()
    assert seen == [ENTRIES]


def test_linked_files_are_an_instance_of_their_own(
    store: RocksDbStore, environment: RocksDbEnvironment, tmp_path: Path
) -> None:
    write(store, ENTRIES)
    store.link_files(tmp_path / "links")
    write(store, {b"\x00\x01a": b"changed"})
    copy = RocksDbStore(tmp_path / "links", environment.options())
    assert dict(copy.scan(b"", None)) == ENTRIES
    copy.close()


def test_a_block_that_can_not_be_read_is_corrupt_data_and_not_the_end(
    store: RocksDbStore, environment: RocksDbEnvironment, tmp_path: Path
) -> None:
    write(store, {f"key-{i:05}".encode(): bytes(100) + str(i).encode() for i in range(5_000)})
    store.link_files(tmp_path / "links")
    (table,) = (tmp_path / "links").glob("*.sst")
    data = bytearray(table.read_bytes())
    data[len(data) // 3] ^= 0xFF
    table.unlink()
    table.write_bytes(data)
    broken = RocksDbStore(tmp_path / "links", environment.options())
    with pytest.raises(CorruptDataError, match=r"can't read local state in .*links: Corruption"):
        list(broken.scan(b"", None))
    with pytest.raises(CorruptDataError):
        broken.get([f"key-{i:05}".encode() for i in range(5_000)])
    broken.close()


def test_a_folder_without_a_table_that_it_needs_is_refused(
    store: RocksDbStore, environment: RocksDbEnvironment, tmp_path: Path
) -> None:
    write(store, ENTRIES)
    store.link_files(tmp_path / "links")
    (table,) = (tmp_path / "links").glob("*.sst")
    table.unlink()
    with pytest.raises((CorruptDataError, StateStoreError), match=r"can't open local state"):
        RocksDbStore(tmp_path / "links", environment.options())


def test_links_that_can_not_be_made_name_the_folder(store: RocksDbStore, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    with pytest.raises(StateStoreError, match=r"can't snapshot local state in .*db: "):
        store.link_files(tmp_path / "links")


def test_a_closed_store_says_so_and_is_gone(environment: RocksDbEnvironment, tmp_path: Path) -> None:
    store = RocksDbStore(tmp_path / "closed", environment.options())
    write(store, ENTRIES)
    store.close()
    store.close()
    assert not (tmp_path / "closed").exists()
    assert store.property("estimate-num-keys") == 0
    with pytest.raises(StateStoreError, match="is closed"):
        store.get([b"a"])


def test_memtables_of_all_stores_count_in_one_budget(environment: RocksDbEnvironment, tmp_path: Path) -> None:
    stores = [RocksDbStore(tmp_path / str(i), environment.options()) for i in range(4)]
    for store in stores:
        for batch in range(20):
            write(store, {f"{batch}-{i:05}".encode(): bytes(1_000) for i in range(200)})
    # Of 16 MB written; those that are being flushed count, too.
    assert environment.memory()["memtables"] < 12 << 20
    for store in stores:
        store.close()
