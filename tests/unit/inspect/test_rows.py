"""Rows of keyed state come out as they went in, without their classes."""

from __future__ import annotations

import datetime
import operator
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.inspect.checkpoints import ORIGIN, write, write_metadata

import moorage as mo
from moorage.api.state import ListState, MapState, ReducingState, Ttl, ValueState
from moorage.coordinator_process.origin import with_origin
from moorage.errors import CorruptDataError, StateError
from moorage.ids import CheckpointId, OperatorUid
from moorage.inspect.checkpoint import OpenCheckpoint, open_checkpoint
from moorage.inspect.rows import rows_of, schemas_of
from moorage.inspect.verify import verify
from moorage.serde.keyed_segments import DELTA, KeyedSegmentCodec
from moorage.state.handles import NO_OFFSET, FileHandle, KeyedHandle, KeyGroupsHandle
from moorage.state.key_groups import key_group, key_group_range
from moorage.state.operator_ids import operator_id
from moorage.state.operator_state import CheckpointMetadata, OperatorState, OperatorSubtaskState

MAX_PARALLELISM = 8
PARALLELISM = 2


class Point(msgspec.Struct, frozen=True, array_like=True):
    x: int
    y: float = 0.0


class Total(mo.KeyedState):
    count: int = 0
    where: Point | None = None
    since: datetime.datetime = datetime.datetime(2026, 1, 1)  # noqa: DTZ001 - naive ones are stored as text


class Basket(mo.KeyedState):
    orders: int = 0
    items: MapState[str, Point] = MapState()
    recent: ListState[int] = ListState(ttl=Ttl(after_ms=60_000))
    total: ReducingState[float] = ReducingState(operator.add)
    last: ValueState[list[Point]] = ValueState()


def checkpoint_of(root: Path, *chain: dict[int, bytes], uid: str = "totals") -> OpenCheckpoint:
    """A checkpoint of two subtasks whose chains are these files: key group -> segment."""
    subtasks = {}
    for subtask in range(PARALLELISM):
        groups = key_group_range(MAX_PARALLELISM, PARALLELISM, subtask)
        handles: list[KeyedHandle] = []
        for number, segments in enumerate(chain):
            offsets, file = [], b""
            for group in groups.groups():
                offsets.append(len(file) if group in segments else NO_OFFSET)
                file += segments.get(group, b"")
            if file:
                path = f"orders/shared/{number}-{uid}-{subtask}-a1-x"
                write(root / path, file)
                handles.append(KeyGroupsHandle(groups, tuple(offsets), FileHandle(path, len(file))))
        subtasks[subtask] = OperatorSubtaskState(managed_keyed=tuple(handles))
    state = OperatorState(
        operator=operator_id(OperatorUid(uid)),
        uid=OperatorUid(uid),
        name="Totals",
        parallelism=PARALLELISM,
        max_parallelism=MAX_PARALLELISM,
        subtasks=subtasks,
    )
    metadata = with_origin(CheckpointMetadata(checkpoint=CheckpointId(3), operators=(state,)), ORIGIN)
    return open_checkpoint(str(write_metadata(root / "orders" / "chk-3", metadata)))


def base(codec: KeyedSegmentCodec[Any, Any], rows: dict[Any, Any]) -> dict[int, bytes]:
    return {group: codec.encode_base({key: rows[key] for key in keys}) for group, keys in by_group(rows).items()}


def delta(codec: KeyedSegmentCodec[Any, Any], rows: dict[Any, Any], changed: Iterable[Any]) -> dict[int, bytes]:
    return {group: codec.encode_delta(rows, keys) for group, keys in by_group(changed).items()}


def by_group(keys: Iterable[Any]) -> dict[int, list[Any]]:
    groups: dict[int, list[Any]] = {}
    for key in keys:
        groups.setdefault(key_group(key, MAX_PARALLELISM), []).append(key)
    return groups


def read(checkpoint: OpenCheckpoint, name: str = "totals") -> dict[Any, dict[str, Any]]:
    rows = list(rows_of(checkpoint, name))
    assert [row.key_group for row in rows] == sorted(row.key_group for row in rows)
    assert all(row.key_group == key_group(row.key, MAX_PARALLELISM) for row in rows)
    return {row.key: dict(row.values) for row in rows}


TOTALS: KeyedSegmentCodec[Any, Any] = KeyedSegmentCodec("totals", str, Total)
START = datetime.datetime(2026, 1, 1)  # noqa: DTZ001


def test_rows_of_a_chain_of_bases_and_deltas(tmp_path: Path) -> None:
    rows = {f"user-{n}": Total(count=n, where=Point(n)) for n in range(50)}
    later = {"user-1": Total(count=100), "new": Total(count=1)}
    checkpoint = checkpoint_of(tmp_path, base(TOTALS, rows), delta(TOTALS, later, ["user-1", "user-2", "new"]))
    expected = {
        key: {"count": row.count, "where": row.where and {"x": row.where.x, "y": 0.0}, "since": START}
        for key, row in {**rows, **later}.items()
        if key != "user-2"
    }
    for name in ("totals", "Totals", operator_id(OperatorUid("totals"))):
        assert read(checkpoint, name) == expected
    assert verify(checkpoint).whole


def test_a_later_base_replaces_what_was_there(tmp_path: Path) -> None:
    gone, kept, *_ = (key for key in map(str, range(99)) if key_group(key, MAX_PARALLELISM) == 3)
    elsewhere = next(key for key in map(str, range(99)) if key_group(key, MAX_PARALLELISM) == 4)
    first = {gone: Total(count=1), kept: Total(count=2), elsewhere: Total(count=3)}
    checkpoint = checkpoint_of(tmp_path, base(TOTALS, first), base(TOTALS, {kept: Total(count=4)}))
    assert {key: row["count"] for key, row in read(checkpoint).items()} == {kept: 4, elsewhere: 3}


def test_states_come_with_their_key(tmp_path: Path) -> None:
    codec: KeyedSegmentCodec[Any, Any] = KeyedSegmentCodec("totals", str, Basket)
    basket, empty = Basket(orders=2), Basket()
    basket.items["apple"] = Point(1, 2.5)
    basket.items["pear"] = Point(3)
    basket.recent.extend([7, 8, 9])
    basket.total.add(1.5)
    basket.last.set([Point(5)])
    group = key_group("ann", MAX_PARALLELISM)
    change = codec.writer(DELTA)
    change.rows({"ann": Basket(orders=3)}, ["ann"])
    change.reset(4, ["ann"])
    change.removed_entries(1, ["ann"], ["pear"])
    change.entries(1, ["ann"], ["fig"], [Point(9)])
    change.entries(2, ["ann", "ann"], [3, 1], [(10, 5), (80, 6)])
    checkpoint = checkpoint_of(tmp_path, base(codec, {"ann": basket, "eve": empty}), {group: change.finish()})
    assert read(checkpoint) == {
        "ann": {
            "orders": 3,
            "items": {"apple": {"x": 1, "y": 2.5}, "fig": {"x": 9, "y": 0.0}},
            "recent": [7, 80, 9, 10],
            "total": 1.5,
            "last": None,
        },
        "eve": {"orders": 0, "items": {}, "recent": [], "total": None, "last": None},
    }


def test_keys_of_any_type(tmp_path: Path) -> None:
    codec: KeyedSegmentCodec[Any, Any] = KeyedSegmentCodec("totals", Any, Total)
    rows = {key: Total(count=n) for n, key in enumerate(["a", 1, b"a", (1, ("b",)), None, 1.5])}
    found = read(checkpoint_of(tmp_path, base(codec, rows)))
    assert {key: row["count"] for key, row in found.items()} == {key: row.count for key, row in rows.items()}


def test_entries_whose_type_was_widened_are_found_again(tmp_path: Path) -> None:
    class Old(mo.KeyedState):
        items: MapState[int, str] = MapState()

    class Wide(mo.KeyedState):
        items: MapState[float, str] = MapState()

    row = Old()
    row.items.update({1: "one", 2: "two"})
    newer: KeyedSegmentCodec[Any, Any] = KeyedSegmentCodec("totals", str, Wide)
    change = newer.writer(DELTA)
    change.rows({"a": Wide()}, ["a"])
    change.removed_entries(1, ["a"], [1.0])
    change.entries(1, ["a"], [2.0], ["new"])
    older: KeyedSegmentCodec[Any, Any] = KeyedSegmentCodec("totals", str, Old)
    checkpoint = checkpoint_of(tmp_path, base(older, {"a": row}), {key_group("a", MAX_PARALLELISM): change.finish()})
    assert read(checkpoint) == {"a": {"items": {2.0: "new"}}}


def test_rows_of_several_versions_of_a_class(tmp_path: Path) -> None:
    class Total(mo.KeyedState):
        count: float = 0.0
        note: str = "-"

    newer: KeyedSegmentCodec[Any, Any] = KeyedSegmentCodec("totals", str, Total)
    old = {"a": globals()["Total"](count=1), "b": globals()["Total"](count=2)}
    checkpoint = checkpoint_of(tmp_path, base(TOTALS, old), delta(newer, {"b": Total(count=2.5)}, ["b"]))
    assert read(checkpoint) == {
        "a": {"count": 1, "where": None, "since": START},
        "b": {"count": 2.5, "note": "-"},
    }
    assert [[name for name, _ in schema.fields] for schema in schemas_of(checkpoint, "totals")] == [
        ["count", "where", "since"],
        ["count", "note"],
    ]


def test_what_can_not_be_read_is_named(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, base(TOTALS, {"a": Total()}))
    with pytest.raises(StateError, match=r"chk-3/_metadata has no operator 'total'; it has totals$"):
        list(rows_of(checkpoint, "total"))
    golden = Path(__file__).parents[2] / "compatibility" / "flink" / "golden" / "job-heap"
    with pytest.raises(StateError, match="was not written by Moorage"):
        list(rows_of(open_checkpoint(str(golden)), "count"))
    (path,) = checkpoint.metadata.paths()
    data = (tmp_path / path).read_bytes()
    for index in range(len(data)):
        (tmp_path / path).write_bytes(data[:index] + bytes([data[index] ^ 0x04]) + data[index + 1 :])
        with pytest.raises(CorruptDataError, match=f"{path}, key group at 0: "):
            list(rows_of(open_checkpoint(str(tmp_path / "orders" / "chk-3")), "totals"))
        assert not verify(checkpoint).whole


def test_read_state_gives_records(tmp_path: Path) -> None:
    class Odd(mo.KeyedState):
        key: int = 0
        other: str = ""

    codec: KeyedSegmentCodec[Any, Any] = KeyedSegmentCodec("totals", str, Odd)
    checkpoint_of(tmp_path, base(codec, {"a": Odd(key=1, other="x")}))
    group = key_group("a", MAX_PARALLELISM)
    expected = [{"key": "a", "key_group": group, "state.key": 1, "other": "x"}]
    for path in (tmp_path / "orders" / "chk-3", tmp_path / "orders" / "chk-3" / "_metadata"):
        assert list(mo.read_state(str(path), "totals")) == expected
    with pytest.raises(StateError, match="no operator 'nothing'"):
        mo.read_state(str(path), "nothing")
