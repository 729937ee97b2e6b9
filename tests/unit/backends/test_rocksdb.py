"""What is the RocksDB backend's own: its cache, states that are not read whole, shared tables, broken files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.backends.backends import ALL, SMALL, Row, Storage, change, counts, group_of, memory, rocksdb

from moorage.api.state import ListState, MapState, Ttl, ValueState
from moorage.backends import rocksdb_expiry
from moorage.backends.keyed import KeyedBackend, SnapshotForm
from moorage.backends.rocksdb import RocksDbKeyedBackend
from moorage.backends.rocksdb_environment import RocksDbEnvironment
from moorage.backends.rocksdb_states import _StoredEntries
from moorage.errors import CorruptDataError, StateError, StateStoreError
from moorage.ids import CheckpointId
from moorage.state.handles import FileHandle, HandleAndLocalPath, IncrementalKeyedHandle, KeyedHandle
from moorage.state.key_groups import KeyGroupRange


class Basket(Row):
    items: MapState[str, int] = MapState()
    history: ListState[list[int]] = ListState()


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[RocksDbEnvironment]:
    environment = RocksDbEnvironment(tmp_path, SMALL)
    yield environment
    environment.close()


@pytest.fixture
def new(environment: RocksDbEnvironment) -> Callable[..., RocksDbKeyedBackend[str, Row]]:
    return rocksdb(environment)


New = Callable[..., RocksDbKeyedBackend[str, Row]]


def restored(new: New, handles: tuple[KeyedHandle, ...], storage: Storage) -> RocksDbKeyedBackend[str, Row]:
    backend = new()
    backend.adopt(backend.load(handles, storage.read), CheckpointId(1))
    return backend


def write_and_forget(backend: KeyedBackend[str, Basket]) -> None:
    """Everything that was changed is written, and nothing of it is in memory any more."""
    change(backend, [f"other-{i}" for i in range(500)])


def basket(backend: KeyedBackend[str, Basket], key: str = "a") -> Basket:
    rows = backend.rows_for(group_of(key), [key])
    if key not in rows:
        rows[key] = backend.new_row(group_of(key), key)
    return rows[key]


# --- rows ------------------------------------------------------------------------------------------------------------


def test_only_rows_that_are_used_stay_in_memory(new: New) -> None:
    backend = new()
    keys = [f"key-{i}" for i in range(2_000)]
    change(backend, keys)
    assert sum(1 for _ in backend.cache.old_rows()) + backend.cache.young_rows < 200
    assert counts(backend, keys) == dict.fromkeys(keys, 1)


def test_a_removed_row_does_not_come_back_before_its_removal_is_written(new: New) -> None:
    backend = new()
    change(backend, ["a"])
    write_and_forget(backend)
    backend.rows_for(group_of("a"), ["a"]).pop("a")
    assert "a" not in backend.rows_for(group_of("a"), ["a"])
    write_and_forget(backend)
    assert "a" not in backend.rows_for(group_of("a"), ["a"])


def test_a_row_that_can_not_be_stored_is_told_with_its_operator(new: New) -> None:
    class Odd(Row):
        thing: object = None

    backend = new(row_type=Odd)
    row = Odd(thing=object())
    backend.rows_for(group_of("a"), ["a"])["a"] = row
    with pytest.raises(StateError, match=r"operator 'totals': a row of Odd can't be stored"):
        backend.snapshot(CheckpointId(1), CheckpointId(0))


# --- states ----------------------------------------------------------------------------------------------------------


def test_a_big_map_is_cleared_without_being_read(new: New, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, storage = new(row_type=Basket), Storage()
    basket(backend).items.update({f"item-{i}": i for i in range(5_000)})
    basket(backend).history.extend([i] for i in range(5_000))
    storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    write_and_forget(backend)
    row = basket(backend)
    with monkeypatch.context() as unread:
        unread.setattr(_StoredEntries, "items", None)
        unread.setattr(_StoredEntries, "get", None)
        unread.setattr(_StoredEntries, "entries_backwards", None)
        row.items.clear()
        row.items["item-7"] = 8
        row.history.replace([[1]])
    assert backend.states.loaded_entries == 2
    handles = storage.store(backend.snapshot(CheckpointId(2), CheckpointId(1)))
    for holder in (backend, restored(lambda: new(row_type=Basket), handles, storage)):
        write_and_forget(holder)
        row = basket(holder)
        assert (dict(row.items), list(row.history)) == ({"item-7": 8}, [[1]])


def test_a_big_map_is_neither_read_nor_written_whole(new: New) -> None:
    backend, storage = new(row_type=Basket), Storage()
    for i in range(5_000):
        basket(backend).items[f"item-{i}"] = i
    storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    write_and_forget(backend)
    storage.store(backend.snapshot(CheckpointId(2), CheckpointId(1)))
    items = basket(backend).items
    items["item-7"] += 1
    assert backend.states.loaded_entries == 1
    storage.store(backend.snapshot(CheckpointId(3), CheckpointId(2)))
    assert storage.last_written_bytes < 4_000
    assert (len(items), items["item-7"], items["item-8"]) == (5_000, 8, 8)


def test_the_entries_of_a_busy_row_are_forgotten_too(new: New) -> None:
    backend = new(row_type=Basket)
    for i in range(1_000):
        basket(backend).items[f"item-{i}"] = i
    assert backend.states.loaded_entries < 200
    assert sum(basket(backend).items.values()) == sum(range(1_000))


def test_a_list_is_appended_to_without_reading_it(new: New) -> None:
    backend = new(row_type=Basket)
    for i in range(300):
        basket(backend).history.append([i])
    write_and_forget(backend)
    backend.rows_for(0, [])
    before = backend.states.loaded_entries
    basket(backend).history.append([300])
    assert backend.states.loaded_entries == before + 1
    assert list(basket(backend).history) == [[i] for i in range(301)]


def test_what_a_list_hands_out_may_be_changed_in_place(new: New) -> None:
    backend = new(row_type=Basket)
    basket(backend).history.extend([[1], [2]])
    write_and_forget(backend)
    for values in basket(backend).history:
        values.append(9)
    write_and_forget(backend)
    assert list(basket(backend).history) == [[1, 9], [2, 9]]


@pytest.mark.parametrize("size", [3, 500])
def test_a_row_that_was_removed_and_met_again_has_no_entries(new: New, size: int) -> None:
    backend = new(row_type=Basket)
    basket(backend).items.update({f"item-{i}": i for i in range(size)})
    write_and_forget(backend)
    backend.rows_for(group_of("a"), ["a"]).pop("a")
    basket(backend).items["new"] = 1
    write_and_forget(backend)
    assert dict(basket(backend).items) == {"new": 1}


def test_entries_of_keys_that_begin_alike_are_kept_apart(new: New) -> None:
    backend = new(row_type=Basket)
    keys = ["", "a", "aa", "ab", "\x00", "a\uffff"]
    for key in keys:
        basket(backend, key).items[key] = len(key)
    write_and_forget(backend)
    assert [dict(basket(backend, key).items) for key in keys] == [{key: len(key)} for key in keys]


def test_states_of_one_value_are_read_with_their_rows(new: New, monkeypatch: pytest.MonkeyPatch) -> None:
    class Latest(Row):
        latest: ValueState[int] = ValueState()

    backend = new(row_type=Latest)
    keys = [key for key in (f"key-{i}" for i in range(400)) if group_of(key) == 0]
    for key in keys:
        rows = backend.rows_for(0, [key])
        rows[key] = row = backend.new_row(0, key)
        row.latest.set(int(key[4:]))  # type: ignore[attr-defined]
    write_and_forget(backend)
    reads = 0
    get = backend.store.get

    def counted(stored: list[bytes]) -> object:
        nonlocal reads
        reads += 1
        return get(stored)

    monkeypatch.setattr(backend.store, "get", counted)
    rows = backend.rows_for(0, keys[:30])
    assert [rows[key].latest.get() for key in keys[:30]] == [int(key[4:]) for key in keys[:30]]  # type: ignore[attr-defined]
    assert reads == 2


def test_a_state_that_was_taken_away_and_comes_back_is_empty(new: New) -> None:
    storage = Storage()
    backend = new(row_type=Basket)
    basket(backend).items["x"] = 1
    handles = storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    without = restored(lambda: new(row_type=Row), handles, storage)
    handles = storage.store(without.snapshot(CheckpointId(2), CheckpointId(1)))
    again = restored(lambda: new(row_type=Basket), handles, storage)
    assert dict(basket(again).items) == {}


def test_a_renamed_state_and_one_that_gets_a_ttl_keep_their_entries(new: New) -> None:
    class Renamed(Row, renamed={"items": "things"}):
        things: MapState[str, int] = MapState(ttl=Ttl(after_ms=10))

    storage = Storage()
    backend = new(row_type=Basket)
    basket(backend).items["x"] = 1
    handles = storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    renamed = restored(lambda: new(row_type=Renamed), handles, storage)
    assert dict(renamed.rows_for(group_of("a"), ["a"])["a"].things) == {"x": 1}  # type: ignore[attr-defined]


def test_entries_whose_type_was_widened_are_found(new: New) -> None:
    class Ints(Row):
        items: MapState[int, str] = MapState()

    class Floats(Row):
        items: MapState[float, str] = MapState()

    storage = Storage()
    backend = new(row_type=Ints)
    rows = backend.rows_for(group_of("a"), ["a"])
    rows["a"] = backend.new_row(group_of("a"), "a")
    rows["a"].items.update({1: "one", -300: "minus"})  # type: ignore[attr-defined]
    handles = storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    wider = restored(lambda: new(row_type=Floats), handles, storage)
    items = wider.rows_for(group_of("a"), ["a"])["a"].items  # type: ignore[attr-defined]
    assert items[1.0] == "one"
    items[1.0] = "changed"
    assert dict(items) == {1.0: "changed", -300.0: "minus"}


def test_entries_whose_time_is_over_are_deleted_although_nobody_asks_for_them(
    new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Visits(Row):
        seen: MapState[str, int] = MapState(ttl=Ttl(after_ms=100))
        kept: MapState[str, int] = MapState(ttl=Ttl(after_ms=100, time="record"))

    monkeypatch.setattr(rocksdb_expiry, "_LOOKED_AT", 40)
    backend = new(row_type=Visits)

    def visit(key: str, entry: str) -> None:
        rows = backend.rows_for(group_of(key), [key])
        if key not in rows:
            rows[key] = backend.new_row(group_of(key), key)
        rows[key].seen[entry] = rows[key].kept[entry] = 1  # type: ignore[attr-defined]

    def entries() -> int:
        return sum(key[2] > 0 for key, _ in backend.store.scan(b"", None))

    for i in range(100):
        visit(f"key-{i}", "page")
    backend.snapshot(CheckpointId(1), CheckpointId(0)).encode()
    assert entries() == 200
    backend.context.processing_ms = 60
    visit("key-0", "page")
    backend.context.processing_ms = 120
    for checkpoint in range(2, 9):
        backend.snapshot(CheckpointId(checkpoint), CheckpointId(0)).encode()
    assert entries() == 101
    row = backend.rows_for(group_of("key-0"), ["key-0"])["key-0"]
    assert dict(row.seen) == dict(row.kept) == {"page": 1}  # type: ignore[attr-defined]


def test_the_search_for_what_is_over_keeps_up_with_what_is_written(new: New, monkeypatch: pytest.MonkeyPatch) -> None:
    class Visits(Row):
        seen: MapState[int, int] = MapState(ttl=Ttl(after_ms=100))

    monkeypatch.setattr(rocksdb_expiry, "_LOOKED_AT", 1)
    backend = new(row_type=Visits)
    most = 0
    for number in range(1, 31):
        backend.context.processing_ms = 100 * number
        for i in range(50):
            key = f"key-{i}"
            rows = backend.rows_for(group_of(key), [key])
            if key not in rows:
                rows[key] = backend.new_row(group_of(key), key)
            rows[key].seen[number] = 1  # type: ignore[attr-defined]
        backend.snapshot(CheckpointId(number), CheckpointId(number - 1)).encode()
        most = max(most, sum(key[2] > 0 for key, _ in backend.store.scan(b"", None)))
    assert most <= 200, "of 1,500 that were written, 50 of which have time left"


def test_rows_that_have_nothing_left_go(new: New) -> None:
    class Visits(Row):
        seen: MapState[str, int] = MapState(ttl=Ttl(after_ms=100))
        last: ValueState[str] = ValueState(ttl=Ttl(after_ms=1_000))
        kept: ValueState[str] = ValueState()

    backend, storage = new(row_type=Visits), Storage()
    expected = set()
    for i in range(300):
        key = f"key-{i}"
        rows = backend.rows_for(group_of(key), [key])
        rows[key] = row = backend.new_row(group_of(key), key)
        row.seen["page"] = 1
        if i % 4 == 1:
            row.count = 1
        if i % 4 == 2:
            row.kept.set("x")
        if i % 4 == 3:
            row.last.set("x")
        if i % 4:
            expected.add(key)
    storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    backend.context.processing_ms = 100
    assert not backend.rows_for(group_of("key-0"), ["key-0"])["key-0"].seen
    for checkpoint in (2, 3, 4):
        handles = storage.store(backend.snapshot(CheckpointId(checkpoint), CheckpointId(checkpoint - 1)))
    assert set(stored_keys(backend)) == expected
    again = restored(lambda: new(row_type=Visits), handles, storage)
    assert counts(again, [f"key-{i}" for i in range(300)]) == {key: int(int(key[4:]) % 4 == 1) for key in expected}
    backend.context.processing_ms = 1_000
    group = group_of("key-3")
    kept = backend.rows_for(group, ["key-3"])["key-3"]
    for checkpoint in (5, 6, 7):
        storage.store(backend.snapshot(CheckpointId(checkpoint), CheckpointId(checkpoint - 1)))
    assert set(stored_keys(backend)) == {key for key in expected if int(key[4:]) % 4 != 3}
    row = backend.rows_for(group, ["key-3"])["key-3"]
    assert row is kept, "it was in the cache all the time"
    row.seen["page"] = 2  # type: ignore[attr-defined]
    handles = storage.store(backend.snapshot(CheckpointId(8), CheckpointId(7)))
    again = restored(lambda: new(row_type=Visits), handles, storage)
    assert dict(again.rows_for(group, ["key-3"])["key-3"].seen) == {"page": 2}  # type: ignore[attr-defined]


def stored_keys(backend: RocksDbKeyedBackend[str, Any]) -> list[str]:
    """Of rows."""
    return list(backend._codec.decode_keys([key for key, _ in backend.store.scan(b"", None) if key[2] == 0]))


def test_rows_that_an_older_class_wrote_go_when_they_have_nothing_left(new: New) -> None:
    class Former(Row):
        seen: MapState[str, int] = MapState(ttl=Ttl(after_ms=100))

    class Present(Row):
        added: int = 7
        seen: MapState[str, int] = MapState(ttl=Ttl(after_ms=100))

    backend, storage = new(row_type=Former), Storage()
    for key in ("a", "b"):
        rows = backend.rows_for(group_of(key), [key])
        rows[key] = backend.new_row(group_of(key), key)
        rows[key].seen["page"] = 1
        rows[key].count = int(key == "b")
    handles = storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    present = restored(lambda: new(row_type=Present), handles, storage)
    present.context.processing_ms = 100
    for checkpoint in (2, 3, 4):
        present.snapshot(CheckpointId(checkpoint), CheckpointId(1)).encode()
    assert stored_keys(present) == ["b"]  # type: ignore[arg-type]


# --- snapshots -------------------------------------------------------------------------------------------------------


def test_tables_of_the_base_are_shared_and_not_uploaded_again(new: New) -> None:
    backend, storage = new(), Storage()
    change(backend, ["a"])
    (first,) = storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    change(backend, ["b"])
    (second,) = storage.store(backend.snapshot(CheckpointId(2), CheckpointId(1)))
    assert isinstance(first, IncrementalKeyedHandle)
    assert isinstance(second, IncrementalKeyedHandle)
    assert set(first.shared) < set(second.shared)
    assert second.written_bytes == storage.last_written_bytes < second.size_bytes


def test_a_restored_instance_goes_on_with_the_tables_of_its_checkpoint(new: New) -> None:
    storage = Storage()
    backend = new()
    change(backend, ["a"])
    handles = storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    other = restored(new, handles, storage)
    (increment,) = storage.store(other.snapshot(CheckpointId(2), CheckpointId(1)))
    assert isinstance(increment, IncrementalKeyedHandle)
    assert isinstance(handles[0], IncrementalKeyedHandle)
    assert increment.shared == handles[0].shared


def test_after_a_rescale_the_larger_part_stays_shared(new: New) -> None:
    storage = Storage()
    handles: list[KeyedHandle] = []
    keys = [f"key-{i}" for i in range(200)]
    for groups in (KeyGroupRange(0, 5), KeyGroupRange(6, 7)):
        part = new(groups)
        change(part, [key for key in keys if group_of(key) in groups])
        handles += storage.store(part.snapshot(CheckpointId(1), CheckpointId(0)))
    whole = restored(new, tuple(handles), storage)
    assert counts(whole, keys) == dict.fromkeys(keys, 1)
    (increment,) = storage.store(whole.snapshot(CheckpointId(2), CheckpointId(1)))
    assert isinstance(increment, IncrementalKeyedHandle)
    assert isinstance(handles[0], IncrementalKeyedHandle)
    assert set(handles[0].shared) <= set(increment.shared)


def test_what_is_not_ours_after_a_rescale_is_not_in_our_snapshots(new: New) -> None:
    storage = Storage()
    keys = [f"key-{i}" for i in range(200)]
    backend = new()
    change(backend, keys)
    handles = storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    part = new(KeyGroupRange(2, 4))
    part.adopt(part.load(handles, storage.read), CheckpointId(1))
    found = [int.from_bytes(key[:2], "big") for key, _ in part.store.scan(b"", None)]
    assert set(found) == {2, 3, 4}
    assert len(found) == sum(2 <= group_of(key) <= 4 for key in keys)


def test_hard_links_go_with_the_end_of_the_snapshot(new: New, tmp_path: Path) -> None:
    backend, storage = new(), Storage()
    change(backend, ["a"])
    storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    list(backend.snapshot(CheckpointId(2), CheckpointId(0), SnapshotForm.CANONICAL).encode())
    backend.snapshot(CheckpointId(3), CheckpointId(0)).encode()
    assert [path.name for path in tmp_path.glob("*/*/chk-*")] == ["chk-3"]
    backend.aborted(CheckpointId(3))
    assert list(tmp_path.glob("*/*/chk-*")) == []


def test_a_snapshot_that_is_aborted_while_it_is_uploaded_fails_and_nothing_else_does(new: New) -> None:
    backend, storage = new(), Storage()
    change(backend, ["a"])
    snapshot = backend.snapshot(CheckpointId(1), CheckpointId(0))
    backend.aborted(CheckpointId(1))
    with pytest.raises(StateStoreError, match=r"the snapshot in .*chk-1 was given up"):
        snapshot.encode()
    handles = storage.store(backend.snapshot(CheckpointId(2), CheckpointId(0)))
    assert counts(restored(new, handles, storage), ["a"]) == {"a": 1}


def test_a_snapshot_that_is_aborted_after_its_links_were_made_fails_alike(new: New) -> None:
    backend = new()
    change(backend, ["a"])
    pieces = backend.snapshot(CheckpointId(1), CheckpointId(0)).encode()
    (table,) = (piece.data for piece in pieces if isinstance(piece.data, Path))
    assert table.exists()
    backend.aborted(CheckpointId(1))
    assert not table.exists()


def test_nothing_is_written_before_the_links_are_made(new: New) -> None:
    backend, storage = new(), Storage()
    keys = [f"key-{i}" for i in range(SMALL.dirty_rows_max)]
    change(backend, keys)
    snapshot = backend.snapshot(CheckpointId(1), CheckpointId(0))
    change(backend, keys)
    assert backend.cache.dirty_rows == len(keys)
    handles = storage.store(snapshot)
    change(backend, ["other"])
    assert backend.cache.dirty_rows == 1
    assert counts(restored(new, handles, storage), keys) == dict.fromkeys(keys, 1)


def test_who_can_not_wait_for_the_links_makes_them(new: New) -> None:
    backend, storage = new(), Storage()
    keys = [f"key-{i}" for i in range(200)]
    change(backend, keys)
    snapshot = backend.snapshot(CheckpointId(1), CheckpointId(0))
    change(backend, keys)
    assert backend.cache.dirty_rows < len(keys)
    assert counts(restored(new, storage.store(snapshot), storage), keys) == dict.fromkeys(keys, 1)


def test_a_disk_that_takes_no_links_fails_the_checkpoint_and_not_the_subtask(new: New, tmp_path: Path) -> None:
    backend, storage = new(), Storage()
    change(backend, ["a"])
    (folder,) = tmp_path.glob("rocksdb-*/1")
    (folder / "chk-1").mkdir()  # in the way of the links
    snapshot = backend.snapshot(CheckpointId(1), CheckpointId(0))
    with pytest.raises(StateStoreError, match=r"can't snapshot local state in "):
        snapshot.encode()
    change(backend, ["a"])
    handles = storage.store(backend.snapshot(CheckpointId(2), CheckpointId(0)))
    assert counts(restored(new, handles, storage), ["a"]) == {"a": 2}


def test_state_that_is_lost_from_the_disk_fails_whoever_reads_it(new: New, tmp_path: Path) -> None:
    backend = new()
    change(backend, [f"key-{i}" for i in range(5_000)])
    backend.snapshot(CheckpointId(1), CheckpointId(0)).encode()
    for table in tmp_path.glob("rocksdb-*/1/db/*.sst"):
        table.write_bytes(b"x" * table.stat().st_size)
    with pytest.raises((CorruptDataError, StateStoreError), match=r"can't (read|write) local state in "):
        counts(backend, [f"key-{i}" for i in range(5_000)])


# --- restore ---------------------------------------------------------------------------------------------------------


def _stored(new: New) -> tuple[IncrementalKeyedHandle, Storage]:
    storage = Storage()
    backend = new()
    change(backend, ["a", "b"])
    (handle,) = storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    assert isinstance(handle, IncrementalKeyedHandle)
    return handle, storage


def _path(file: HandleAndLocalPath) -> str:
    assert isinstance(file.stream, FileHandle)
    return file.stream.path


def test_a_table_with_one_wrong_bit_is_refused_by_name(new: New) -> None:
    handle, storage = _stored(new)
    path = _path(handle.shared[0])
    data = bytearray(storage.files[path])
    data[len(data) // 2] ^= 1
    storage.files[path] = bytes(data)
    with pytest.raises(
        CorruptDataError,
        match=rf"operator 'totals', checkpoint 1: {handle.shared[0].local_path} is not what was written",
    ):
        new().load((handle,), storage.read)


@pytest.mark.parametrize("kept", [0, 10])
def test_a_table_that_is_cut_off_is_refused(new: New, kept: int) -> None:
    handle, storage = _stored(new)
    path = _path(handle.shared[0])
    storage.files[path] = storage.files[path][:kept]
    with pytest.raises(CorruptDataError, match="wrong size or checksum"):
        new().load((handle,), storage.read)


def test_a_handle_that_lacks_a_file_is_refused(new: New) -> None:
    handle, storage = _stored(new)
    with pytest.raises(CorruptDataError, match="files and table of contents differ"):
        new().load((msgspec.structs.replace(handle, shared=()),), storage.read)


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "000001.sst/../../x", "OPTIONS-000007", ""])
def test_a_file_that_wants_to_lie_elsewhere_is_refused(new: New, name: str) -> None:
    handle, storage = _stored(new)
    former = handle.shared[0]
    contents = msgspec.msgpack.decode(storage.read(handle.metadata))
    contents["files"][name] = contents["files"].pop(former.local_path)
    data = msgspec.msgpack.encode(contents)
    storage.files["evil"] = data
    hostile = msgspec.structs.replace(
        handle,
        shared=(HandleAndLocalPath(name, former.stream),),
        metadata=FileHandle("evil", len(data)),
    )
    with pytest.raises(CorruptDataError, match="is not a file of RocksDB"):
        new().load((hostile,), storage.read)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", msgspec.msgpack.encode({"format": 1})])
def test_a_table_of_contents_that_is_none_is_refused(new: New, data: bytes) -> None:
    handle, storage = _stored(new)
    storage.files["odd"] = data
    with pytest.raises(CorruptDataError, match="not a table of contents of a RocksDB snapshot"):
        new().load((msgspec.structs.replace(handle, metadata=FileHandle("odd", len(data))),), storage.read)


def test_the_memory_backend_refuses_a_native_snapshot_and_reads_a_canonical_one(new: New) -> None:
    backend, storage = new(), Storage()
    change(backend, ["a"])
    native = storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0), SnapshotForm.FULL))
    with pytest.raises((StateError, TypeError)):
        memory().load(native, storage.read)
    canonical = storage.store(backend.snapshot(CheckpointId(2), CheckpointId(0), SnapshotForm.CANONICAL))
    other = memory()
    other.adopt(other.load(canonical, storage.read), CheckpointId(2))
    assert counts(other, ["a"]) == {"a": 1}


def test_checkpoints_of_the_memory_backend_are_read(new: New) -> None:
    storage = Storage()
    source = memory()
    change(source, ["a", "b"])
    storage.store(source.snapshot(CheckpointId(1), CheckpointId(0)))
    change(source, ["b"])
    source.rows_for(group_of("a"), ["a"]).pop("a")
    handles = storage.store(source.snapshot(CheckpointId(2), CheckpointId(1)))
    assert counts(restored(new, handles, storage), ["a", "b"]) == {"b": 2}


def test_a_type_that_changed_too_much_is_refused_before_anything_runs(new: New) -> None:
    class Other(Row):
        count: str = ""  # type: ignore[assignment]

    handle, storage = _stored(new)
    with pytest.raises(StateError, match=r"field 'count' of Other was int and is str now"):
        new(ALL, Other).load((handle,), storage.read)


def test_closing_takes_everything_away(new: New, environment: RocksDbEnvironment, tmp_path: Path) -> None:
    backend = new()
    change(backend, ["a"])
    backend.snapshot(CheckpointId(1), CheckpointId(0)).encode()
    assert backend.figures()["entries"] == 1
    backend.close()
    backend.close()
    assert environment.members() == ()
    assert list(tmp_path.glob("rocksdb-*/*")) == []
