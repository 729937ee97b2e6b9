"""Canonical snapshots: in files of bounded size, whatever the size of a key group, and some blocks at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.backends.backends import SMALL, NewBackend, Storage, memory, rocksdb

from moorage.api.keyed_state import KeyedState
from moorage.api.state import MapState
from moorage.backends import canonical, memory_snapshot, rocksdb_segments
from moorage.backends.keyed import KeyedBackend, SnapshotForm
from moorage.backends.rocksdb_environment import RocksDbEnvironment
from moorage.errors import StateStoreError
from moorage.ids import CheckpointId
from moorage.serde.keyed_segments import BASE, DELTA
from moorage.serde.segment_blocks import decode_payload, read_segment
from moorage.state.handles import NO_OFFSET, KeyedHandle, KeyGroupsHandle
from moorage.state.key_groups import KeyGroupRange

FILE_BYTES, CHUNK_BYTES = 4_000, 1_000
BLOCK_BYTES = 60_000
"""2,000 rows or entries of this test."""
GROUPS = KeyGroupRange(0, 3)
EMPTY, SMALL_GROUP, HUGE, WIDE = GROUPS.groups()
KEYS = {SMALL_GROUP: ["a", "b"], HUGE: [f"user-{i}" for i in range(5_000)], WIDE: ["wide"]}
ITEMS = 5_000
Handles = tuple[KeyedHandle, ...]


class Basket(KeyedState):
    count: int = 0
    items: MapState[str, int] = MapState()


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical, "FILE_BYTES", FILE_BYTES)
    for module in (memory_snapshot, rocksdb_segments):
        monkeypatch.setattr(module, "CHUNK_BYTES", CHUNK_BYTES)


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[RocksDbEnvironment]:
    environment = RocksDbEnvironment(tmp_path, SMALL)
    yield environment
    environment.close()


@pytest.fixture(params=["memory", "rocksdb"])
def new(request: pytest.FixtureRequest, environment: RocksDbEnvironment) -> NewBackend:
    make: NewBackend = memory if request.param == "memory" else rocksdb(environment)
    return lambda: make(GROUPS, Basket)


def filled(new: NewBackend) -> KeyedBackend[str, Any]:
    """A key group with many rows, one with a single large row, a small one and one without rows."""
    backend = new()
    for group, keys in KEYS.items():
        for start in range(0, len(keys), 500):
            some = keys[start : start + 500]
            rows = backend.rows_for(group, some)
            for number, key in enumerate(some, start):
                row = rows[key] = backend.new_row(group, key)
                row.count = number
                row.items["first"] = number
                if group == WIDE:
                    row.items.update((f"item-{i}", i) for i in range(ITEMS))
    return backend


def shown(backend: KeyedBackend[str, Any]) -> dict[str, tuple[int, int, int]]:
    """Key -> count, number of items, sum of items."""
    found = {}
    for group, keys in KEYS.items():
        for start in range(0, len(keys), 500):
            rows = backend.rows_for(group, keys[start : start + 500])
            for key in keys[start : start + 500]:
                row = rows[key]
                found[key] = (row.count, len(row.items), sum(row.items.values()))
    return found


def loaded(new: NewBackend, handles: Handles, storage: Storage) -> KeyedBackend[str, Any]:
    backend = new()
    backend.adopt(backend.load(handles, storage.read), CheckpointId(0))
    return backend


def snapshot_of(backend: KeyedBackend[str, Any], checkpoint: int = 1) -> Any:
    return backend.snapshot(CheckpointId(checkpoint), CheckpointId(0), SnapshotForm.CANONICAL)


def test_files_are_bounded_and_a_key_group_may_lie_in_many(new: NewBackend, environment: RocksDbEnvironment) -> None:
    backend, storage = filled(new), Storage()
    expected = shown(backend)
    handles: Handles = storage.store(snapshot_of(backend))
    sizes = [len(data) for data in storage.files.values()]
    assert len(sizes) > 4
    assert max(sizes) < FILE_BYTES + BLOCK_BYTES
    kinds: dict[int, list[int]] = {group: [] for group in GROUPS.groups()}
    for handle in handles:
        assert isinstance(handle, KeyGroupsHandle)
        assert handle.canonical
        for group in GROUPS.groups():
            if handle.offsets[group] != NO_OFFSET:
                kinds[group].append(
                    decode_payload(read_segment(storage.read(handle.stream), handle.offsets[group])).kind
                )
    assert (kinds[EMPTY], kinds[SMALL_GROUP]) == ([], [BASE])
    for group in (HUGE, WIDE):
        assert len(kinds[group]) > 1
        assert kinds[group] == [BASE] + [DELTA] * (len(kinds[group]) - 1)
    for make in (memory, rocksdb(environment)):
        assert shown(loaded(lambda make=make: make(GROUPS, Basket), handles, storage)) == expected


def test_it_is_made_piece_by_piece_while_rows_change(new: NewBackend) -> None:
    backend, storage = filled(new), Storage()
    expected = shown(backend)
    snapshot = snapshot_of(backend)
    pieces = iter(snapshot.encode())
    kept = []
    for number, piece in enumerate(pieces):
        kept.append(piece)
        for group, keys in KEYS.items():
            key = keys[-1 - number % len(keys)]
            row = backend.rows_for(group, [key])[key]
            row.count += 1_000_000
            row.items["late"] = number
    assert len(kept) > 4

    class Kept:
        def encode(self) -> Any:
            return kept

        finish = snapshot.finish

    handles = storage.store(Kept())
    assert shown(loaded(new, handles, storage)) == expected
    assert shown(backend) != expected


def test_what_is_aborted_on_the_way_ends(new: NewBackend) -> None:
    backend = filled(new)
    pieces = iter(snapshot_of(backend).encode())
    next(pieces)
    backend.aborted(CheckpointId(1))
    with pytest.raises(StateStoreError, match="the snapshot was given up"):
        list(pieces)
    later = snapshot_of(backend, 2)
    backend.aborted(CheckpointId(2))
    with pytest.raises(StateStoreError, match="the snapshot was given up"):
        list(later.encode())


def test_a_checkpoint_after_it_holds_what_changed_before_it(new: NewBackend) -> None:
    """Nothing builds on a savepoint: an increment goes back to the checkpoint before."""
    backend, storage = filled(new), Storage()
    first = storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    assert first
    backend.rows_for(SMALL_GROUP, ["a"])["a"].count = 77
    storage.store(backend.snapshot(CheckpointId(2), CheckpointId(1), SnapshotForm.CANONICAL))
    backend.rows_for(SMALL_GROUP, ["b"])["b"].count = 78
    expected = shown(backend)
    handles = storage.store(backend.snapshot(CheckpointId(3), CheckpointId(1)))
    assert shown(loaded(new, handles, storage)) == expected


def test_of_no_rows_there_are_no_pieces(new: NewBackend) -> None:
    snapshot = snapshot_of(new())
    assert list(snapshot.encode()) == []
    assert snapshot.finish([]) == ()
