"""What every state backend must do, against a plain dict: whatever is snapshotted, aborted, completed, restored and
rescaled, and in whatever form, rows are equal; and either backend reads the canonical form of the other."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.unit.backends.backends import (
    GROUPS,
    SMALL,
    NewBackend,
    Row,
    Storage,
    change,
    counts,
    group_of,
    memory,
    rocksdb,
)

from moorage.api.state import ListState, MapState, ReducingState, ValueState
from moorage.backends.keyed import KeyedBackend, SnapshotForm
from moorage.backends.rocksdb_environment import RocksDbEnvironment
from moorage.errors import StateError
from moorage.ids import CheckpointId
from moorage.state.handles import FileHandle, KeyedHandle, StreamHandle, paths_of
from moorage.state.key_groups import key_group_range

KEYS = [f"k{i}" for i in range(12)]


class Rich(Row):
    """A row with states of every kind."""

    latest: ValueState[list[str]] = ValueState()
    highest: ReducingState[int] = ReducingState(max)
    history: ListState[int] = ListState()
    items: MapState[str, int] = MapState()


class Shown(NamedTuple):
    """What a row and its states are."""

    count: int
    tags: list[str]
    latest: list[str] | None
    highest: int | None
    history: list[int]
    items: dict[str, int]


def show(row: Rich) -> Shown:
    return Shown(
        row.count,
        list(row.tags),
        copy.copy(row.latest.get()),
        row.highest.get(),
        list(row.history),
        dict(row.items),
    )


def twin_of(shown: Shown) -> Rich:
    """A row of no backend, as the one that was shown."""
    row = Rich(count=shown.count, tags=list(shown.tags))
    if shown.latest is not None:
        row.latest.set(list(shown.latest))
    if shown.highest is not None:
        row.highest.add(shown.highest)
    row.history.extend(shown.history)
    row.items.update(shown.items)
    return row


def _tag(row: Rich) -> None:
    row.tags = [*row.tags, str(row.count)]


def _set_value(row: Rich) -> None:
    row.latest.set([str(row.count)])


def _change_value_in_place(row: Rich) -> None:
    latest = row.latest.get()
    if latest is not None:
        latest.append(str(row.count))


def _put_item(row: Rich) -> None:
    row.items[f"i{row.count % 5}"] = row.count


def _remove_item(row: Rich) -> None:
    row.items.pop(f"i{row.count % 5}", None)


def _append_and_cut(row: Rich) -> None:
    row.history.extend([row.count, -row.count])
    if len(row.history) > 12:
        row.history.replace(list(row.history)[-3:])


CHANGES: list[Callable[[Rich], None]] = [
    _tag,
    _set_value,
    _change_value_in_place,
    lambda row: row.highest.add(row.count),
    lambda row: row.latest.clear(),
    _put_item,
    _remove_item,
    lambda row: row.items.clear(),
    _append_and_cut,
    lambda row: row.history.append(row.count),
    lambda row: row.history.clear(),
]


def is_sparse(stream: StreamHandle, used_bytes: int) -> bool:
    """Some files are, for no reason."""
    return used_bytes > 0 and isinstance(stream, FileHandle) and crc32(stream.path.encode()) % 7 == 0


Handles = list[tuple[KeyedHandle, ...]]
Model = dict[str, Shown]


class AgreementMachine(RuleBasedStateMachine):
    """One job over many checkpoints, several undecided at a time, restored at any parallelism."""

    new: NewBackend

    def __init__(self) -> None:
        super().__init__()
        self.storage = Storage()
        self.model: dict[str, Rich] = {}
        self.next_id = 1
        self.base = 0
        self.undecided: dict[int, tuple[Handles, Model, bool]] = {}
        self.completed: dict[int, tuple[Handles, Model]] = {}
        self.savepoint: tuple[Handles, Model] | None = None
        self.subtasks: list[KeyedBackend[str, Rich]] = []

    @initialize(parallelism=st.integers(1, 3))
    def begin(self, parallelism: int) -> None:
        self._start(parallelism)

    def _start(self, parallelism: int) -> None:
        for backend in self.subtasks:
            backend.close()
        ranges = [key_group_range(GROUPS, parallelism, index) for index in range(parallelism)]
        self.subtasks = [self.new(groups, Rich, is_sparse) for groups in ranges]

    def _owner(self, key: str) -> KeyedBackend[str, Rich]:
        return self.subtasks[group_of(key) * len(self.subtasks) // GROUPS]

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=20), change=st.sampled_from(CHANGES))
    def update(self, keys: list[str], change: Callable[[Rich], None]) -> None:
        for group in {group_of(key) for key in keys}:
            batch = [key for key in keys if group_of(key) == group]
            backend = self._owner(batch[0])
            rows = backend.rows_for(group, batch)
            for key in batch:
                row = rows.get(key)
                if row is None:
                    row = rows[key] = backend.new_row(group, key)
                twin = self.model.setdefault(key, Rich())
                for one in (row, twin):
                    one.count += 1
                    change(one)

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=6, unique=True), again=st.booleans())
    def remove(self, keys: list[str], again: bool) -> None:
        for key in keys:
            group, backend = group_of(key), self._owner(key)
            rows = backend.rows_for(group, [key])
            rows.pop(key, None)
            self.model.pop(key, None)
            if again:
                rows[key] = backend.new_row(group, key)
                self.model[key] = Rich()

    @rule(form=st.sampled_from([SnapshotForm.INCREMENTAL, SnapshotForm.INCREMENTAL, *SnapshotForm]))
    def snapshot(self, form: SnapshotForm) -> None:
        checkpoint = self.next_id
        self.next_id += 1
        snapshots = [b.snapshot(CheckpointId(checkpoint), CheckpointId(self.base), form) for b in self.subtasks]
        model = {key: show(row) for key, row in self.model.items()}
        if self.model:
            for key in sorted(self.model)[:7]:  # enough of them to be written somewhere before the second phase
                self.update([key], _put_item)
        handles = [self.storage.store(snapshot) for snapshot in snapshots]
        self.undecided[checkpoint] = (handles, model, form is SnapshotForm.CANONICAL)

    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        if self.undecided:
            checkpoint = data.draw(st.sampled_from(sorted(self.undecided)))
            handles, model, canonical = self.undecided.pop(checkpoint)
            if canonical:  # a savepoint: nothing builds on it
                self.savepoint = (handles, model)
                return
            self.completed[checkpoint] = (handles, model)
            self.base = max(self.base, checkpoint)
            self._sweep()

    def _sweep(self) -> None:
        """Delete what neither the newest checkpoint nor what is undecided refers to, as the cleaner may."""
        kept = [handles for handles, _, _ in self.undecided.values()]
        kept += [self.completed[self.base][0], self.savepoint[0] if self.savepoint else []]
        used = {path for parts in kept for handles in parts for handle in handles for path in paths_of(handle)}
        self.storage.files = {path: data for path, data in self.storage.files.items() if path in used}

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        if self.undecided:
            checkpoint = data.draw(st.sampled_from(sorted(self.undecided)))
            del self.undecided[checkpoint]
            if data.draw(st.booleans()):  # or the word is lost
                for backend in self.subtasks:
                    backend.aborted(CheckpointId(checkpoint))

    @rule(parallelism=st.integers(1, 4))
    def fail_over(self, parallelism: int) -> None:
        if not self.base:
            return
        handles, model = self.completed[self.base]
        self._start(parallelism)
        for backend in self.subtasks:
            backend.adopt(
                backend.load([h for part in handles for h in part], self.storage.read), CheckpointId(self.base)
            )
        self.model = {key: twin_of(shown) for key, shown in model.items()}
        self.undecided.clear()

    @rule(keys=st.permutations(KEYS))
    def rows_are_equal(self, keys: list[str]) -> None:
        found: Model = {}
        for key in keys:
            row = self._owner(key).rows_for(group_of(key), [key]).get(key)
            if row is not None:
                found[key] = show(row)
        assert found == {key: show(row) for key, row in self.model.items()}

    @rule()
    def either_backend_reads_the_savepoint(self) -> None:
        if self.savepoint is None:
            return
        handles, model = self.savepoint
        for new in (memory, self.new):
            backend: KeyedBackend[str, Rich] = new(row_type=Rich)
            backend.adopt(backend.load([h for part in handles for h in part], self.storage.read), CheckpointId(1))
            rows = {key: backend.rows_for(group_of(key), [key]).get(key) for key in KEYS}
            assert {key: show(row) for key, row in rows.items() if row is not None} == model
            backend.close()

    def teardown(self) -> None:
        for backend in self.subtasks:
            backend.close()


class MemoryMachine(AgreementMachine):
    new = staticmethod(memory)


class RocksDbMachine(AgreementMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.environment = RocksDbEnvironment(Path(self.folder.name), SMALL)
        self.new = rocksdb(self.environment)

    @invariant()
    def no_files_of_decided_checkpoints_are_kept(self) -> None:
        members = len(self.environment.members())
        links = [path for path in Path(self.folder.name).glob("*/*/chk-*") if path.exists()]
        assert len(links) <= members * len(self.undecided)

    def teardown(self) -> None:
        super().teardown()
        assert self.environment.members() == ()
        self.environment.close()
        assert list(Path(self.folder.name).iterdir()) == []
        self.folder.cleanup()


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestRocksDb = RocksDbMachine.TestCase
TestRocksDb.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)


@pytest.fixture(params=["memory", "rocksdb"])
def new_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewBackend]:
    if request.param == "memory":
        yield memory
        return
    environment = RocksDbEnvironment(tmp_path, SMALL)
    yield rocksdb(environment)
    environment.close()


def test_an_increment_is_small(new_backend: NewBackend) -> None:
    backend, storage = new_backend(), Storage()
    keys = [f"key-{i}" for i in range(20_000)]
    change(backend, keys)
    storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    first = storage.last_written_bytes
    change(backend, keys[:10])
    handles = storage.store(backend.snapshot(CheckpointId(2), CheckpointId(1)))
    assert storage.last_written_bytes < first / 10
    other = new_backend()
    other.adopt(other.load(handles, storage.read), CheckpointId(2))
    assert counts(other, keys) == dict.fromkeys(keys, 1) | dict.fromkeys(keys[:10], 2)


def test_an_increment_never_builds_on_an_undecided_checkpoint(new_backend: NewBackend) -> None:
    backend, storage = new_backend(), Storage()
    change(backend, ["a", "b"])
    storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    storage.files.clear()
    change(backend, ["b"])
    handles = storage.store(backend.snapshot(CheckpointId(2), CheckpointId(0)))
    other = new_backend()
    other.adopt(other.load(handles, storage.read), CheckpointId(2))
    assert counts(other, ["a", "b"]) == {"a": 1, "b": 2}


def test_a_full_snapshot_refers_to_nothing_older(new_backend: NewBackend) -> None:
    backend, storage = new_backend(), Storage()
    change(backend, ["a", "b"])
    storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    storage.files.clear()
    handles = storage.store(backend.snapshot(CheckpointId(2), CheckpointId(1), SnapshotForm.FULL))
    other = new_backend()
    other.adopt(other.load(handles, storage.read), CheckpointId(2))
    assert counts(other, ["a", "b"]) == {"a": 1, "b": 1}


def test_a_base_that_the_subtask_does_not_know_is_not_built_on(new_backend: NewBackend) -> None:
    backend, storage = new_backend(), Storage()
    change(backend, ["a"])
    storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    storage.files.clear()
    handles = storage.store(backend.snapshot(CheckpointId(8), CheckpointId(7)))
    other = new_backend()
    other.adopt(other.load(handles, storage.read), CheckpointId(8))
    assert counts(other, ["a"]) == {"a": 1}


def test_fields_may_be_added_and_removed_again_and_again(new_backend: NewBackend) -> None:
    class Wider(Row):
        added: str = "new"

    storage = Storage()
    backend = new_backend()
    change(backend, ["a", "b"])
    handles = storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    wider = new_backend(row_type=Wider)
    wider.adopt(wider.load(handles, storage.read), CheckpointId(1))
    row = wider.rows_for(group_of("a"), ["a"])["a"]
    assert (row.count, row.added) == (1, "new")
    row.added = "changed"
    handles = storage.store(wider.snapshot(CheckpointId(2), CheckpointId(1)))
    backend = new_backend()
    backend.adopt(backend.load(handles, storage.read), CheckpointId(2))
    assert counts(backend, ["a", "b"]) == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(lambda row: setattr(row, "count", "3"), "field 'count': Expected `int`, got `str`", id="field"),
        pytest.param(lambda row: row.tags.append(3), "field 'tags': Expected `str`, got `int`", id="within-a-field"),
        pytest.param(lambda row: row.highest.add(1.5), "state 'highest': Expected `int`, got `float`", id="reducing"),
        pytest.param(lambda row: row.history.append("x"), "state 'history': Expected `int`, got `str`", id="list"),
        pytest.param(lambda row: row.items.update(a=None), "state 'items': Expected `int`, got `None`", id="map"),
        pytest.param(lambda row: row.items.update({1: 1}), "state 'items': Expected `str`, got `int`", id="map-key"),
        pytest.param(lambda row: row.latest.set("x"), "state 'latest': Expected `array`, got `str`", id="value"),
    ],
)
@pytest.mark.parametrize("form", SnapshotForm)
def test_what_could_not_be_restored_is_not_stored(
    new_backend: NewBackend, form: SnapshotForm, spoil: Callable[[Rich], None], told: str
) -> None:
    backend, storage = new_backend(row_type=Rich), Storage()
    change(backend, ["a", "b"])
    storage.store(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    spoil(backend.rows_for(group_of("a"), ["a"])["a"])
    with pytest.raises(StateError, match=f"operator 'totals': a value in Rich is not of the type .*{told}"):
        storage.store(backend.snapshot(CheckpointId(2), CheckpointId(1), form))
