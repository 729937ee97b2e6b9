"""The memory backend against a plain dict: whatever is snapshotted, aborted, completed and restored, rows are equal."""

from __future__ import annotations

import copy
from zlib import crc32

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from moorage.api.keyed_state import KeyedState
from moorage.backends.memory import MemoryKeyedBackend, handles_bytes
from moorage.errors import CorruptDataError, StateError
from moorage.ids import CheckpointId
from moorage.state.handles import ByteStreamHandle, FileHandle, KeyGroupsHandle, StreamHandle
from moorage.state.key_groups import KeyGroupRange, key_group_range

GROUPS = 8


class Row(KeyedState):
    count: int = 0
    tags: list[str] = []  # noqa: RUF012 - msgspec copies it


class Files:
    """A storage of snapshot files, and which of them a checkpoint needs."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def write(self, name: str, data: bytes) -> list[FileHandle]:
        if not data:
            return []
        self.files[name] = data
        return [FileHandle(name, len(data))]

    def read(self, stream: StreamHandle) -> bytes:
        assert isinstance(stream, FileHandle)
        return self.files[stream.path]


def group_of(key: str) -> int:
    return crc32(key.encode()) % GROUPS


class BackendMachine(RuleBasedStateMachine):
    """One subtask over many checkpoints, several undecided at a time, with restores to any parallelism."""

    def __init__(self) -> None:
        super().__init__()
        self.files = Files()
        self.backend = self._new(KeyGroupRange(0, GROUPS - 1))
        self.model: dict[str, tuple[int, list[str]]] = {}
        self.next_id = 1
        self.base = 0
        self.undecided: dict[int, tuple[tuple[KeyGroupsHandle, ...], dict[str, tuple[int, list[str]]]]] = {}
        self.completed: dict[int, tuple[tuple[KeyGroupsHandle, ...], dict[str, tuple[int, list[str]]]]] = {}

    @staticmethod
    def _new(groups: KeyGroupRange) -> MemoryKeyedBackend[str, Row]:
        return MemoryKeyedBackend("totals", groups, str, Row)

    @rule(key=st.sampled_from([f"k{i}" for i in range(40)]), tag=st.none() | st.text(max_size=3))
    def update(self, key: str, tag: str | None) -> None:
        group = group_of(key)
        row = self.backend.rows[group].setdefault(key, Row())
        row.count += 1
        if tag is not None:
            row.tags = [*row.tags, tag]
        self.backend.changed[group].add(key)
        self.model[key] = (row.count, list(row.tags))

    @rule(key=st.sampled_from([f"k{i}" for i in range(40)]))
    def delete(self, key: str) -> None:
        group = group_of(key)
        self.backend.rows[group].pop(key, None)
        self.backend.changed[group].add(key)
        self.model.pop(key, None)

    @rule()
    def snapshot(self) -> None:
        checkpoint = self.next_id
        self.next_id += 1
        snapshot = self.backend.snapshot(CheckpointId(checkpoint), CheckpointId(self.base))
        handles = snapshot.finish(self.files.write(f"f{checkpoint}", snapshot.data))
        self.undecided[checkpoint] = (handles, copy.deepcopy(self.model))

    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        if self.undecided:
            checkpoint = data.draw(st.sampled_from(sorted(self.undecided)))
            self.completed[checkpoint] = self.undecided.pop(checkpoint)
            self.base = max(self.base, checkpoint)

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        if self.undecided:
            checkpoint = data.draw(st.sampled_from(sorted(self.undecided)))
            del self.undecided[checkpoint]
            self.files.files.pop(f"f{checkpoint}", None)
            if data.draw(st.booleans()):  # or the word is lost
                self.backend.aborted(CheckpointId(checkpoint))

    @rule()
    def fail_over(self) -> None:
        if not self.completed:
            return
        latest = max(self.completed)
        handles, model = self.completed[latest]
        self.backend = self._new(KeyGroupRange(0, GROUPS - 1))
        self.backend.adopt(self.backend.load(handles, self.files.read), CheckpointId(latest))
        self.model = copy.deepcopy(model)
        self.base = latest
        for checkpoint in self.undecided:
            self.files.files.pop(f"f{checkpoint}", None)
        self.undecided.clear()

    @invariant()
    def every_completed_checkpoint_since_the_base_restores(self) -> None:
        latest = max(self.completed, default=None)
        if latest is None:
            return
        handles, model = self.completed[latest]
        rows: dict[str, tuple[int, list[str]]] = {}
        for subtask in range(3):
            backend = self._new(key_group_range(GROUPS, 3, subtask))
            for group in backend.load(handles, self.files.read).rows.values():
                rows |= {key: (row.count, row.tags) for key, row in group.items()}
        assert rows == model


TestBackend = BackendMachine.TestCase
TestBackend.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_delta_is_as_small_as_the_change() -> None:
    backend: MemoryKeyedBackend[str, Row] = MemoryKeyedBackend("totals", KeyGroupRange(0, 0), str, Row)
    backend.rows[0] = {f"key-{i}": Row(count=i) for i in range(10_000)}
    backend.changed[0] = set(backend.rows[0])
    first = backend.snapshot(CheckpointId(1), CheckpointId(0))
    handles = first.finish([FileHandle("f1", len(first.data))])
    backend.changed[0].add("key-7")
    second = backend.snapshot(CheckpointId(2), CheckpointId(1))
    assert len(second.data) < 100 < len(first.data)
    assert handles_bytes((*handles, *second.finish([FileHandle("f2", 60)]))) == len(first.data) + 60


def test_the_chain_of_a_busy_key_group_stays_bounded() -> None:
    backend: MemoryKeyedBackend[str, Row] = MemoryKeyedBackend("totals", KeyGroupRange(0, 15), str, Row)
    for group in range(16):
        backend.rows[group] = {f"{group}-{i}": Row(count=i) for i in range(100)}
        backend.changed[group] = set(backend.rows[group])
    longest = 0
    for number in range(1, 100):
        snapshot = backend.snapshot(CheckpointId(number), CheckpointId(number - 1))
        snapshot.finish([FileHandle(f"f{number}", len(snapshot.data))] if snapshot.data else [])
        longest = max(longest, *(len(chain) for chain in snapshot.chains.values()))
        for group in range(16):
            backend.changed[group].add(f"{group}-1")
    assert 2 <= longest <= 10


def _stored(row_type: type[msgspec.Struct], row: msgspec.Struct) -> KeyGroupsHandle:
    backend: MemoryKeyedBackend[str, msgspec.Struct] = MemoryKeyedBackend("totals", KeyGroupRange(0, 0), str, row_type)
    backend.rows[0]["k"] = row
    backend.changed[0].add("k")
    snapshot = backend.snapshot(CheckpointId(1), CheckpointId(0))
    (handle,) = snapshot.finish([ByteStreamHandle("f", snapshot.data)])
    return handle


def _inline(stream: StreamHandle) -> bytes:
    assert isinstance(stream, ByteStreamHandle)
    return stream.data


def test_fields_may_be_added_removed_and_reordered() -> None:
    class Wider(KeyedState):
        added: str = "new"
        tags: list[str] = []  # noqa: RUF012 - msgspec copies it
        count: int = 0

    handle = _stored(Row, Row(count=3, tags=["a"]))
    backend: MemoryKeyedBackend[str, Wider] = MemoryKeyedBackend("totals", KeyGroupRange(0, 0), str, Wider)
    row = backend.load([handle], _inline).rows[0]["k"]
    assert (row.added, row.tags, row.count) == ("new", ["a"], 3)


def test_a_field_of_another_type_is_refused_by_name() -> None:
    class Other(KeyedState):
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
