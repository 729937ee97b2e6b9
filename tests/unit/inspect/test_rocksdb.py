"""Rows of the RocksDB backend's own snapshots, without the class that wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.backends.backends import GROUPS, SMALL, Storage, group_of, rocksdb
from tests.unit.inspect.checkpoints import ORIGIN, write, write_metadata

import moorage as mo
from moorage.backends.rocksdb_environment import RocksDbEnvironment
from moorage.coordinator_process.origin import with_origin
from moorage.errors import CorruptDataError, ObjectMissingError
from moorage.ids import CheckpointId, OperatorUid
from moorage.inspect.checkpoint import OpenCheckpoint, open_checkpoint
from moorage.inspect.rows import rows_of, schemas_of
from moorage.inspect.verify import verify
from moorage.state.handles import IncrementalKeyedHandle, KeyedHandle
from moorage.state.key_groups import key_group_range
from moorage.state.operator_ids import operator_id
from moorage.state.operator_state import CheckpointMetadata, OperatorState, OperatorSubtaskState

KEYS = [f"user-{number}" for number in range(200)]
FIRST, SECOND = CheckpointId(1), CheckpointId(2)


class Basket(mo.KeyedState):
    count: int = 0
    items: mo.MapState[str, float] = mo.MapState()
    recent: mo.ListState[int] = mo.ListState(ttl=mo.Ttl(after_ms=60_000))
    last: mo.ValueState[str] = mo.ValueState()


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[RocksDbEnvironment]:
    environment = RocksDbEnvironment(tmp_path / "state", SMALL)
    yield environment
    environment.close()


def shop(backend: Any, key: str, number: int) -> None:
    rows = backend.rows_for(group_of(key), [key])
    row = rows.get(key)
    if row is None:
        row = rows[key] = backend.new_row(group_of(key), key)
    row.count += 1
    row.items[f"item-{number}"] = number / 2
    row.recent.append(number)
    row.last.set(f"last {number}")


def checkpoint_of(root: Path, storage: Storage, *subtasks: tuple[KeyedHandle, ...]) -> OpenCheckpoint:
    for path, data in storage.files.items():
        write(root / path, data)
    state = OperatorState(
        operator=operator_id(OperatorUid("totals")),
        uid=OperatorUid("totals"),
        name=None,
        parallelism=len(subtasks),
        max_parallelism=GROUPS,
        subtasks={n: OperatorSubtaskState(managed_keyed=handles) for n, handles in enumerate(subtasks)},
    )
    metadata = with_origin(CheckpointMetadata(checkpoint=SECOND, operators=(state,)), ORIGIN)
    return open_checkpoint(str(write_metadata(root / "orders" / "chk-2", metadata)))


def test_rows_and_states_of_two_subtasks_over_two_checkpoints(environment: RocksDbEnvironment, tmp_path: Path) -> None:
    storage = Storage()
    handles = []
    again: set[str] = set()
    for subtask in range(2):
        groups = key_group_range(GROUPS, 2, subtask)
        backend = rocksdb(environment)(groups, Basket)
        mine = [key for key in KEYS if group_of(key) in groups]
        for key in mine:
            shop(backend, key, 1)
        storage.store(backend.snapshot(FIRST, CheckpointId(0)))
        for key in mine[::3]:
            shop(backend, key, 2)
        again.update(mine[::3])
        handles.append(storage.store(backend.snapshot(SECOND, FIRST)))
        backend.close()
    assert all(isinstance(handle, IncrementalKeyedHandle) for chain in handles for handle in chain)
    checkpoint = checkpoint_of(tmp_path / "storage", storage, *handles)
    rows = list(rows_of(checkpoint, "totals"))
    assert {row.key: row.key_group for row in rows} == {key: group_of(key) for key in KEYS}
    assert {row.key: dict(row.values) for row in rows} == {
        key: {
            "count": 2 if key in again else 1,
            "items": {"item-1": 0.5, "item-2": 1.0} if key in again else {"item-1": 0.5},
            "recent": [1, 2] if key in again else [1],
            "last": "last 2" if key in again else "last 1",
        }
        for key in KEYS
    }
    (schema,) = schemas_of(checkpoint, "totals")
    assert [name for name, _ in schema.fields] == ["count", "items", "recent", "last"]
    assert verify(checkpoint).whole


def test_rows_of_a_class_that_has_changed(environment: RocksDbEnvironment, tmp_path: Path) -> None:
    class Smaller(mo.KeyedState):
        total: int = 0

    storage = Storage()
    backend = rocksdb(environment)(row_type=Basket)
    for key in ("ann", "bob"):
        shop(backend, key, 1)
    before = storage.store(backend.snapshot(FIRST, CheckpointId(0)))
    backend.close()
    newer = rocksdb(environment)(row_type=Smaller)
    newer.adopt(newer.load(before, storage.read), FIRST)
    row = newer.rows_for(group_of("bob"), ["bob"])["bob"]
    row.total = 5
    checkpoint = checkpoint_of(tmp_path / "storage", storage, storage.store(newer.snapshot(SECOND, FIRST)))
    newer.close()
    found = {row.key: dict(row.values) for row in rows_of(checkpoint, "totals")}
    assert found["ann"]["count"] == 1
    assert found["bob"] == {"total": 5}
    assert len(schemas_of(checkpoint, "totals")) == 2


def test_damaged_and_missing_files_are_named(environment: RocksDbEnvironment, tmp_path: Path) -> None:
    storage = Storage()
    backend = rocksdb(environment)(row_type=Basket)
    shop(backend, "ann", 1)
    handles = storage.store(backend.snapshot(FIRST, CheckpointId(0)))
    backend.close()
    root = tmp_path / "storage"
    checkpoint = checkpoint_of(root, storage, handles)
    for path in sorted(set(checkpoint.metadata.paths())):
        data = (root / path).read_bytes()
        (root / path).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        # The table of contents has the checksums of the others; its own is in its name, as a worker stores it.
        with pytest.raises(CorruptDataError, match="wrong checksum" if path.endswith("CONTENTS") else path):
            list(rows_of(checkpoint, "totals"))
        (root / path).unlink()
        with pytest.raises(ObjectMissingError, match=path):
            list(rows_of(open_checkpoint(str(root / "orders" / "chk-2")), "totals"))
        (root / path).write_bytes(data)
    assert len(list(rows_of(checkpoint, "totals"))) == 1
