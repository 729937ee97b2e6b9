"""The memory backend against a plain dict: whatever is snapshotted, aborted, completed and restored, rows are equal.

A snapshot is encoded later than it is taken, in slices between which rows go on changing.
"""

from __future__ import annotations

import copy
import operator
import weakref
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import moorage as mo
from moorage.backends import memory
from moorage.backends.keyed import SnapshotForm
from moorage.backends.memory import MemoryKeyedBackend
from moorage.backends.memory_snapshot import MemorySnapshot
from moorage.errors import CorruptDataError, StateError
from moorage.ids import CheckpointId
from moorage.state.handles import ByteStreamHandle, FileHandle, IncrementalKeyedHandle, KeyGroupsHandle, StreamHandle
from moorage.state.key_groups import KeyGroupRange, key_group_range

GROUPS = 2
KEYS = [f"k{i}" for i in range(24)]


class Row(mo.KeyedState):
    count: int = 0
    tags: list[str] = []  # noqa: RUF012 - msgspec copies it


class Basket(mo.KeyedState):
    """A row with every kind of state."""

    count: int = 0
    items: mo.MapState[str, int] = mo.MapState()
    recent: mo.ListState[list[int]] = mo.ListState()
    total: mo.ReducingState[int] = mo.ReducingState(operator.add)
    last: mo.ValueState[str] = mo.ValueState()


Model = dict[str, Any]


def shown(row: Any) -> Any:
    if isinstance(row, Row):
        return (row.count, list(row.tags))
    return (row.count, dict(row.items), list(row.recent), row.total.get(), row.last.get())


class Files:
    """A storage of snapshot files, and which of them a checkpoint needs."""

    def __init__(self, inline_max_bytes: int = 0) -> None:
        self.files: dict[str, bytes] = {}
        self.inline_max_bytes = inline_max_bytes

    def store(self, name: str, snapshot: MemorySnapshot[Any, Any]) -> tuple[KeyGroupsHandle, ...]:
        streams: list[StreamHandle] = []
        for piece in snapshot.encode():
            assert isinstance(piece.data, bytes)
            if len(piece.data) <= self.inline_max_bytes - piece.carried_bytes:
                streams.append(ByteStreamHandle(name, piece.data))
                continue
            self.files[name] = piece.data
            streams.append(FileHandle(name, len(piece.data)))
        handles = snapshot.finish(streams)
        assert inline_bytes(handles) <= self.inline_max_bytes
        return handles

    def read(self, stream: StreamHandle) -> bytes:
        if isinstance(stream, ByteStreamHandle):
            return stream.data
        assert isinstance(stream, FileHandle)
        return self.files[stream.path]


def inline_bytes(handles: Sequence[KeyGroupsHandle]) -> int:
    return sum(handle.size_bytes for handle in handles if isinstance(handle.stream, ByteStreamHandle))


def is_sparse(stream: StreamHandle, used_bytes: int) -> bool:
    return 2 * used_bytes < stream.size_bytes


def group_of(key: str) -> int:
    return crc32(key.encode()) % GROUPS


class Turns:
    """In place of the event that lets the loop in between two slices: the loop's work is done right there."""

    def __init__(self, loop: Callable[[], None]) -> None:
        self._loop = loop

    def wait(self) -> None:
        self._loop()

    def set(self) -> None:
        """The loop has had its turn."""

    def clear(self) -> None:
        """The loop wants its turn."""


class BackendMachine(RuleBasedStateMachine):
    """One subtask over many checkpoints, several undecided at a time, with restores to any parallelism."""

    row_type: type[Any] = Row

    def __init__(self) -> None:
        super().__init__()
        self.files = Files(inline_max_bytes=600)
        self.model: Model = {}
        self.pending: list[tuple[str, int]] = []
        """What the loop does between two slices."""
        self.backend = self._new(KeyGroupRange(0, GROUPS - 1))
        self.next_id = 1
        self.base = 0
        self.taken: dict[int, tuple[MemorySnapshot[str, Any], Model]] = {}
        """Snapshots that are not encoded yet."""
        self.undecided: dict[int, tuple[tuple[KeyGroupsHandle, ...], Model]] = {}
        self.completed: dict[int, tuple[tuple[KeyGroupsHandle, ...], Model]] = {}

    def _new(self, groups: KeyGroupRange) -> MemoryKeyedBackend[str, Any]:
        backend: MemoryKeyedBackend[str, Any] = MemoryKeyedBackend(
            "baskets", groups, str, self.row_type, restore_threads=len(groups), is_sparse=is_sparse
        )
        backend._turn = Turns(self._between_slices)  # type: ignore[assignment]
        return backend

    def _between_slices(self) -> None:
        if self.pending:
            self._update(*self.pending.pop())

    def _update(self, key: str, what: int) -> None:
        group = group_of(key)
        rows = self.backend.rows_for(group, [key])
        if what == 0:
            rows.pop(key, None)
            self.model.pop(key, None)
            return
        row = rows.get(key)
        if row is None or what == 1:  # cleared, then met again in the same batch
            row = rows[key] = self.backend.new_row(group, key)
        row.count += 1
        if isinstance(row, Basket):
            self._update_states(row, what)
        else:
            row.tags.append(f"{what}")
        self.model[key] = shown(row)

    def _update_states(self, row: Basket, what: int) -> None:
        match what % 6:
            case 2:
                row.items[f"i{row.count % 3}"] = row.count
            case 3:
                row.items.pop(f"i{row.count % 3}", None)
            case 4:
                row.recent.append([row.count])
                for values in row.recent:
                    values.append(what)
            case 5:
                row.total.add(what)
                row.last.set(f"{what}")
                if row.count % 3 == 0:
                    row.recent.clear()
            case _:
                pass

    @rule(updates=st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 11)), max_size=12))
    def update(self, updates: list[tuple[str, int]]) -> None:
        for key, what in updates:
            self._update(key, what)

    @rule(form=st.sampled_from([*SnapshotForm, *[SnapshotForm.INCREMENTAL] * 6]))
    def snapshot(self, form: SnapshotForm) -> None:
        checkpoint = self.next_id
        self.next_id += 1
        snapshot = self.backend.snapshot(CheckpointId(checkpoint), CheckpointId(self.base), form)
        self.taken[checkpoint] = (snapshot, copy.deepcopy(self.model))

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), updates=st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 11)), max_size=6))
    def store(self, data: st.DataObject, updates: list[tuple[str, int]]) -> None:
        checkpoint = data.draw(st.sampled_from(sorted(self.taken)))
        snapshot, model = self.taken.pop(checkpoint)
        self.pending = updates
        self.undecided[checkpoint] = (self.files.store(f"f{checkpoint}", snapshot), model)

    @precondition(lambda self: self.undecided)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        checkpoint = data.draw(st.sampled_from(sorted(self.undecided)))
        self.completed[checkpoint] = self.undecided.pop(checkpoint)
        self.base = max(self.base, checkpoint)

    @precondition(lambda self: self.undecided or self.taken)
    @rule(data=st.data(), heard=st.booleans())
    def abort(self, data: st.DataObject, heard: bool) -> None:
        checkpoint = data.draw(st.sampled_from(sorted({*self.undecided, *self.taken})))
        self.undecided.pop(checkpoint, None)
        self.taken.pop(checkpoint, None)
        self.files.files.pop(f"f{checkpoint}", None)
        if heard:  # or the word is lost
            self.backend.aborted(CheckpointId(checkpoint))

    @precondition(lambda self: self.completed)
    @rule()
    def fail_over(self) -> None:
        latest = max(self.completed)
        handles, model = self.completed[latest]
        self.backend = self._new(KeyGroupRange(0, GROUPS - 1))
        self.backend.adopt(self.backend.load(handles, self.files.read), CheckpointId(latest))
        self.model = copy.deepcopy(model)
        self.base = latest
        for checkpoint in self.undecided:
            self.files.files.pop(f"f{checkpoint}", None)
        self.undecided.clear()
        self.taken.clear()

    @invariant()
    def what_is_remembered_is_bounded(self) -> None:
        backend = self.backend
        assert len(backend._undecided) <= memory._UNDECIDED_MAX
        for noted in (backend._changes, *(snapshot.changes for snapshot in backend._undecided)):
            for group, changes in noted.items():
                assert not changes.whole or not (changes.keys or changes.renewed or any(changes.entries))
                chain = backend._chains[group]
                worth = chain[0].size // 2 if chain else len(backend.rows[group])
                assert len(changes) <= max(worth, len(KEYS)) + 8, "but for what the last batch has changed"

    @invariant()
    def the_latest_checkpoint_restores(self) -> None:
        latest = max(self.completed, default=None)
        if latest is None:
            return
        handles, model = self.completed[latest]
        found: Model = {}
        for subtask in range(GROUPS):
            backend = self._new(key_group_range(GROUPS, GROUPS, subtask))
            for rows in backend.load(handles, self.files.read).rows.values():
                found |= {key: shown(row) for key, row in rows.items()}
        assert found == model


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moorage.backends.memory_encoding._KEYS_WITH_STATES", 2)
    monkeypatch.setattr("moorage.backends.memory_encoding.BLOCK_ROWS", 2)
    monkeypatch.setattr("moorage.backends.memory_encoding._ENTRIES_MAX", 1)
    monkeypatch.setattr(memory, "_NOTED_MIN", 2)
    monkeypatch.setattr(memory, "_UNDECIDED_MAX", 3)


class StatesMachine(BackendMachine):
    row_type = Basket


TestRows = BackendMachine.TestCase
TestRows.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestStates = StatesMachine.TestCase
TestStates.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


# --- what is written -------------------------------------------------------------------------------------------------


def filled(rows: int, groups: int = 1) -> MemoryKeyedBackend[str, Row]:
    backend: MemoryKeyedBackend[str, Row] = MemoryKeyedBackend("totals", KeyGroupRange(0, groups - 1), str, Row)
    for group in range(groups):
        keys = [f"{group}-{i}" for i in range(rows)]
        backend.rows_for(group, keys)
        backend.rows[group].update((key, Row(count=i)) for i, key in enumerate(keys))
    return backend


def stored(backend: MemoryKeyedBackend[Any, Any], checkpoint: int, **options: Any) -> tuple[int, Any]:
    """Snapshot on the checkpoint before: bytes that are new, and the handles."""
    snapshot = backend.snapshot(CheckpointId(checkpoint), CheckpointId(checkpoint - 1), **options)
    pieces = list(snapshot.encode())
    size = sum(piece.size_bytes for piece in pieces)
    return size, snapshot.finish([FileHandle(f"f{checkpoint}", size) for _ in pieces])


def test_a_delta_is_as_small_as_the_change() -> None:
    backend = filled(10_000)
    first, _ = stored(backend, 1)
    backend.rows_for(0, ["0-7"])
    second, handles = stored(backend, 2)
    assert second < 200 < first
    assert sum(handle.size_bytes for handle in handles) == first + second
    assert stored(backend, 3)[0] == 0


def test_the_chain_of_a_busy_key_group_stays_bounded() -> None:
    backend = filled(100, groups=16)
    longest = 0
    for number in range(1, 100):
        _, handles = stored(backend, number)
        longest = max(longest, *(sum(h.offsets[g] >= 0 for h in handles) for g in range(16)))
        for group in range(16):
            backend.rows_for(group, [f"{group}-1"])
    assert 2 <= longest <= 24


def checkpoints(backend: MemoryKeyedBackend[Any, Any], files: Files, first: int, last: int) -> Any:
    """Complete so many, one after the other; the handles of the last."""
    handles: Any = ()
    for number in range(first, last + 1):
        snapshot = backend.snapshot(CheckpointId(number), CheckpointId(number - 1))
        handles = files.store(f"f{number}", snapshot)
    return handles


def test_a_file_of_which_little_is_used_is_let_go_of() -> None:
    backend: MemoryKeyedBackend[str, Row] = MemoryKeyedBackend(
        "totals", KeyGroupRange(0, 15), str, Row, is_sparse=is_sparse
    )
    files = Files()
    for group in range(16):
        backend.rows_for(group, ["a"])["a"] = Row(tags=["x" * 1_000])
    checkpoints(backend, files, 1, 1)
    for number in range(2, 60):
        for group in range(12):  # the others rest
            backend.rows_for(group, ["a"])["a"].count += 1
        handles = checkpoints(backend, files, number, number)
        used = sum(handle.size_bytes for handle in handles)
        assert used < 4 * 16 * 1_100
    assert "f1" not in {handle.stream.path for handle in handles}


def test_a_key_group_that_rests_is_not_written_again_and_again() -> None:
    backend: MemoryKeyedBackend[str, Row] = MemoryKeyedBackend(
        "totals", KeyGroupRange(0, 15), str, Row, is_sparse=is_sparse
    )
    for group in range(16):
        backend.rows_for(group, ["a"])["a"] = Row()
    files = Files()
    checkpoints(backend, files, 1, 100)
    assert list(files.files) == ["f1"]


def test_what_lies_in_a_merged_file_that_others_have_left_is_written_anew() -> None:
    sparse: set[str] = set()
    backend: MemoryKeyedBackend[str, Row] = MemoryKeyedBackend(
        "totals", KeyGroupRange(0, 31), str, Row, is_sparse=lambda stream, _: getattr(stream, "path", "") in sparse
    )
    files = Files()
    for group in range(32):
        backend.rows_for(group, ["a"])["a"] = Row(count=group)
    checkpoints(backend, files, 1, 1)
    sparse.add("f1")
    handles = checkpoints(backend, files, 2, 16)
    assert "f1" in {handle.stream.path for handle in handles}, "a sixteenth with each checkpoint"
    handles = checkpoints(backend, files, 17, 17)
    assert "f1" not in {handle.stream.path for handle in handles}
    restored = backend.load(handles, files.read)
    assert {group: rows["a"].count for group, rows in restored.rows.items()} == {group: group for group in range(32)}


@pytest.mark.parametrize("rows", [20, 10_000])
def test_the_metadata_does_not_fill_with_deltas(rows: int) -> None:
    backend, files = filled(rows // 4, groups=4), Files(inline_max_bytes=20_000)
    checkpoints(backend, files, 1, 1)
    for number in range(2, 60):
        for group in range(4):
            backend.rows_for(group, [f"{group}-{number % 5}"])[f"{group}-{number % 5}"].tags = ["x" * 500]
        handles = checkpoints(backend, files, number, number)
        if rows == 20:
            assert len(handles) == 1, "what the metadata carries as a whole is written as a whole"
    assert (files.files == {}) == (rows == 20)


def test_a_full_snapshot_refers_to_no_other() -> None:
    backend = filled(100, groups=4)
    stored(backend, 1)
    backend.rows_for(0, ["0-1"])
    for form in (SnapshotForm.FULL, SnapshotForm.CANONICAL):
        _, (handle,) = stored(backend, 2, form=form)
        assert handle.canonical == (form is SnapshotForm.CANONICAL)
        assert handle.stream.path == "f2"
        assert min(handle.offsets) == 0


def test_keys_that_are_touched_again_and_again_are_stored_once() -> None:
    backend = filled(10_000)
    stored(backend, 1)
    for number in range(1_000):
        backend.rows_for(0, ["0-7", "0-8"])["0-7"].count = number
    second, _ = stored(backend, 2)
    assert second < 200


def remembered(backend: MemoryKeyedBackend[Any, Any]) -> int:
    """Rows and entries that the backend has noted as changed."""
    noted = [backend._changes, *(snapshot.changes for snapshot in backend._undecided)]
    return sum(len(changes) for groups in noted for changes in groups.values())


@pytest.mark.parametrize("triggered", [False, True])
@pytest.mark.parametrize("row_type", [Row, Basket])
def test_what_is_remembered_does_not_grow_while_no_checkpoint_completes(row_type: Any, triggered: bool) -> None:
    backend: MemoryKeyedBackend[str, Any] = MemoryKeyedBackend("totals", KeyGroupRange(0, 0), str, row_type)
    files = Files()
    for number in range(100):
        backend.rows_for(0, [f"{number}"])[f"{number}"] = backend.new_row(0, f"{number}")
    files.store("f1", backend.snapshot(CheckpointId(1), CheckpointId(0)))
    files.store("f2", backend.snapshot(CheckpointId(2), CheckpointId(1)))
    for number in range(2_000):
        key = f"gone-{number}"
        rows = backend.rows_for(0, [key, "7"])
        rows[key] = row = backend.new_row(0, key)
        if isinstance(row, Basket):
            rows["7"].items[key] = number
            del rows["7"].items[key]
        del rows[key]
        rows["7"].count = number
        if triggered and number % 50 == 49:
            checkpoint = CheckpointId(3 + number // 50)
            files.store(f"f{checkpoint}", backend.snapshot(checkpoint, CheckpointId(2)))
            if checkpoint % 3:
                backend.aborted(checkpoint)
        assert remembered(backend) <= 350, "each of four: half of what is stored, and what the last batch changed"
    handles = files.store("f1000", backend.snapshot(CheckpointId(1_000), CheckpointId(2)))
    restored = backend.load(handles, files.read).rows[0]
    assert len(restored) == 100
    assert restored["7"].count == 1_999


def test_a_checkpoint_completes_though_nobody_expected_it_any_more() -> None:
    backend = filled(100)
    stored(backend, 1)
    for number in range(2, 10):
        backend.rows_for(0, [f"0-{number}"])["0-1"].count = number
        backend.snapshot(CheckpointId(number), CheckpointId(1)).encode()
    _, (handle,) = stored(backend, 3)
    assert handle.stream.path == "f3", "the base is unknown: everything is written"


def test_what_an_aborted_snapshot_held_is_let_go_of() -> None:
    backend = filled(10, groups=2)
    snapshot = weakref.ref(backend.snapshot(CheckpointId(1), CheckpointId(0)))
    backend.aborted(CheckpointId(1))
    assert snapshot() is None
    assert not any(backend._under_way.values())


def test_one_entry_of_a_large_map_is_stored_by_itself() -> None:
    backend: MemoryKeyedBackend[str, Basket] = MemoryKeyedBackend("baskets", KeyGroupRange(0, 0), str, Basket)
    row = backend.rows_for(0, ["ann"]).setdefault("ann", backend.new_row(0, "ann"))
    row.items.update({f"item-{i}": i for i in range(100_000)})
    first, _ = stored(backend, 1)
    backend.rows_for(0, ["ann"])["ann"].items["item-7"] = 0
    second, _ = stored(backend, 2)
    assert second < 400 < first


def test_a_snapshot_that_was_aborted_is_not_encoded_any_more() -> None:
    backend = filled(10)
    snapshot = backend.snapshot(CheckpointId(1), CheckpointId(0))
    backend.aborted(CheckpointId(1))
    assert snapshot.encode() == []
    assert stored(backend, 2)[0] > 0


def test_a_row_that_can_not_be_stored_fails_the_snapshot_and_not_the_loop() -> None:
    for touched in (["0-1"], []):
        backend = filled(10)
        backend.rows[0]["0-1"].tags = [object()]  # type: ignore[list-item]
        snapshot = backend.snapshot(CheckpointId(1), CheckpointId(0))
        backend.rows_for(0, touched)
        with pytest.raises(StateError, match=r"'totals': a row of Row can't be stored: .*object is unsupported"):
            snapshot.encode()


# --- time to live ----------------------------------------------------------------------------------------------------


class Seen(mo.KeyedState):
    pages: mo.MapState[str, int] = mo.MapState(ttl=mo.Ttl(after_ms=100))


class Counted(mo.KeyedState):
    count: int = 0
    tags: list[str] = []  # noqa: RUF012 - msgspec copies it
    pages: mo.MapState[str, int] = mo.MapState(ttl=mo.Ttl(after_ms=100))


def test_what_is_over_is_left_out_of_a_base_and_forgotten() -> None:
    backend: MemoryKeyedBackend[str, Seen] = MemoryKeyedBackend("seen", KeyGroupRange(0, 0), str, Seen)
    row = backend.rows_for(0, ["ann"]).setdefault("ann", backend.new_row(0, "ann"))
    row.pages["old"] = 1
    backend.context.processing_ms = 99
    row.pages["new"] = 2
    assert set(row.pages) == {"old", "new"}
    backend.context.processing_ms = 100
    assert set(row.pages) == {"new"}
    files = Files()
    handles = files.store("f1", backend.snapshot(CheckpointId(1), CheckpointId(0)))
    assert list(row.pages._entries) == ["new"]
    restored = backend.load(handles, files.read)
    backend.adopt(restored, CheckpointId(1))
    assert dict(backend.rows[0]["ann"].pages) == {"new": 2}
    backend.context.processing_ms = 199
    assert dict(backend.rows[0]["ann"].pages) == {}


def test_what_is_over_is_forgotten_though_nothing_changes() -> None:
    backend: MemoryKeyedBackend[str, Seen] = MemoryKeyedBackend("seen", KeyGroupRange(0, 15), str, Seen)
    for group in range(16):
        row = backend.rows_for(group, ["ann"]).setdefault("ann", backend.new_row(group, "ann"))
        row.pages["old"] = 1
    stored(backend, 1)
    backend.context.processing_ms = 100
    for number in range(2, 130):
        stored(backend, number)
    assert backend.row_count() == 0, "a row with nothing but defaults is no row"


def test_much_that_is_over_is_forgotten_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_EXPIRED_MAX", 10)
    monkeypatch.setattr(memory, "_EXPIRED_BATCH", 5)
    backend: MemoryKeyedBackend[str, Seen] = MemoryKeyedBackend("seen", KeyGroupRange(0, 1), str, Seen)
    for number in range(40):
        backend.rows_for(0, [f"{number}"])[f"{number}"] = row = backend.new_row(0, f"{number}")
        row.pages["old"] = 1
    backend.context.processing_ms = 100
    files = Files()
    files.store("f1", backend.snapshot(CheckpointId(1), CheckpointId(0)))
    assert backend.row_count() == 30
    backend.rows_for(1, ["other"])
    assert backend.row_count() == 25
    kept = next(iter(backend.rows[0]))
    backend.rows_for(0, [kept])[kept].pages["old"] = 2
    assert backend.row_count() == 20
    handles = files.store("f2", backend.snapshot(CheckpointId(2), CheckpointId(1)))
    assert backend.row_count() == 5
    for _ in range(5):
        backend.rows_for(1, ["other"])
    assert {key: dict(row.pages) for key, row in backend.rows[0].items()} == {kept: {"old": 2}}
    restored = backend.load(handles, files.read)
    assert {key for key, row in restored.rows[0].items() if row.pages} == {kept}


def test_a_row_whose_last_entry_ended_when_it_was_read_goes_too() -> None:
    backend: MemoryKeyedBackend[str, Counted] = MemoryKeyedBackend("seen", KeyGroupRange(0, 0), str, Counted)
    for key in ("ann", "bob", "cid"):
        row = backend.rows_for(0, [key]).setdefault(key, backend.new_row(0, key))
        row.pages["old"] = 1
    backend.rows[0]["bob"].count = 1
    backend.context.processing_ms = 100
    for key in ("ann", "bob"):
        assert backend.rows_for(0, [key])[key].pages.get("old") is None
    files = Files()
    files.store("f1", backend.snapshot(CheckpointId(1), CheckpointId(0)))
    assert list(backend.rows[0]) == ["bob"]
    handles = files.store("f2", backend.snapshot(CheckpointId(2), CheckpointId(1)))
    assert list(backend.load(handles, files.read).rows[0]) == ["bob"]


def test_what_is_over_is_forgotten_while_another_snapshot_is_encoded() -> None:
    backend: MemoryKeyedBackend[str, Seen] = MemoryKeyedBackend("seen", KeyGroupRange(0, 0), str, Seen)
    keys = [f"{number}" for number in range(10)]
    for key, row in zip(keys, [backend.new_row(0, key) for key in keys], strict=True):
        backend.rows_for(0, [key])[key] = row
        row.pages["old"] = 1
    backend.context.processing_ms = 100
    files = Files()
    between_slices: list[MemorySnapshot[str, Seen]] = []

    def loop() -> None:
        if between_slices:
            files.store("f1", between_slices.pop())

    backend._turn = Turns(loop)  # type: ignore[assignment]
    first = backend.snapshot(CheckpointId(1), CheckpointId(0))
    second = backend.snapshot(CheckpointId(2), CheckpointId(0))
    between_slices.append(first)
    handles = files.store("f2", second)
    assert backend.row_count() == 0
    assert all(not row.pages._entries for row in backend.load(handles, files.read).rows[0].values())


# --- restore ---------------------------------------------------------------------------------------------------------


def _stored(row_type: type[msgspec.Struct], row: msgspec.Struct) -> KeyGroupsHandle:
    backend: MemoryKeyedBackend[str, msgspec.Struct] = MemoryKeyedBackend("totals", KeyGroupRange(0, 0), str, row_type)
    backend.rows_for(0, ["k"])["k"] = row
    snapshot = backend.snapshot(CheckpointId(1), CheckpointId(0))
    (piece,) = snapshot.encode()
    assert isinstance(piece.data, bytes)
    (handle,) = snapshot.finish([ByteStreamHandle("f", piece.data)])
    return handle


def _inline(stream: StreamHandle) -> bytes:
    assert isinstance(stream, ByteStreamHandle)
    return stream.data


def test_fields_may_be_added_removed_and_reordered() -> None:
    class Wider(mo.KeyedState):
        added: str = "new"
        tags: list[str] = []  # noqa: RUF012 - msgspec copies it
        count: int = 0

    handle = _stored(Row, Row(count=3, tags=["a"]))
    backend: MemoryKeyedBackend[str, Wider] = MemoryKeyedBackend("totals", KeyGroupRange(0, 0), str, Wider)
    row = backend.load([handle], _inline).rows[0]["k"]
    assert (row.added, row.tags, row.count) == ("new", ["a"], 3)


def test_a_field_of_another_type_is_refused_by_name() -> None:
    class Other(mo.KeyedState):
        count: str = ""
        tags: list[str] = []  # noqa: RUF012 - msgspec copies it

    backend: MemoryKeyedBackend[str, Other] = MemoryKeyedBackend("totals", KeyGroupRange(0, 0), str, Other)
    with pytest.raises(StateError, match=r"operator 'totals': field 'count' of Other was int and is str now"):
        backend.load([_stored(Row, Row(count=3))], _inline)


def test_a_corrupt_segment_is_named() -> None:
    handle = _stored(Row, Row(count=3))
    assert isinstance(handle.stream, ByteStreamHandle)
    data = bytearray(handle.stream.data)
    data[-1] ^= 1
    broken = KeyGroupsHandle(handle.key_groups, handle.offsets, ByteStreamHandle("f", bytes(data)))
    backend: MemoryKeyedBackend[str, Row] = MemoryKeyedBackend("totals", KeyGroupRange(0, 0), str, Row)
    with pytest.raises(CorruptDataError, match="wrong checksum"):
        backend.load([broken], _inline)


def test_files_of_rocksdb_are_refused() -> None:
    handle = IncrementalKeyedHandle(
        backend_id="b",
        checkpoint=CheckpointId(1),
        key_groups=KeyGroupRange(0, 0),
        shared=(),
        private=(),
        metadata=ByteStreamHandle("m", b""),
        written_bytes=0,
    )
    backend: MemoryKeyedBackend[str, Row] = MemoryKeyedBackend("totals", KeyGroupRange(0, 0), str, Row)
    with pytest.raises(StateError, match="start from a canonical savepoint"):
        backend.load([handle], _inline)
