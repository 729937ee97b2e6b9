"""Rows as files that other programs read."""

from __future__ import annotations

import datetime
import enum
import json
import operator
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.unit.inspect.checkpoints import ORIGIN, USERS, orders_checkpoint, write_metadata
from tests.unit.inspect.test_rows import TOTALS, Total, base, checkpoint_of, delta

import moorage as mo
from moorage.coordinator_process.origin import with_origin
from moorage.errors import CorruptDataError, MetadataError, SettingError
from moorage.ids import CheckpointId, OperatorId, OperatorUid
from moorage.inspect.checkpoint import OpenCheckpoint, open_checkpoint
from moorage.inspect.export import ExportError, export, export_metadata
from moorage.inspect.table import OperatorTable
from moorage.serde.keyed_segments import KeyedSegmentCodec
from moorage.state.handles import ByteStreamHandle, DistributionMode, OperatorStreamHandle, StateMetaInfo
from moorage.state.operator_state import CheckpointMetadata, OperatorState, OperatorSubtaskState
from moorage.task.source import SOURCE_OFFSETS

UTC = datetime.UTC


class Colour(enum.Enum):
    RED = "red"


class Item(msgspec.Struct, array_like=True):
    name: str
    price: float


class Everything(mo.KeyedState):
    count: int = 0
    colour: Colour = Colour.RED
    since: datetime.datetime = datetime.datetime(2026, 1, 1, tzinfo=UTC)
    day: datetime.date = datetime.date(2026, 1, 2)
    id: uuid.UUID = uuid.UUID(int=1)
    raw: bytes = b"\xff"
    nothing: str | None = None
    either: int | str = 0
    anything: Any = None
    best: Item | None = None
    pair: tuple[int, str] = (1, "x")
    items: mo.MapState[str, Item] = mo.MapState()
    places: mo.MapState[tuple[int, int], int] = mo.MapState()
    recent: mo.ListState[float] = mo.ListState()
    total: mo.ReducingState[int] = mo.ReducingState(operator.add)


CODEC: KeyedSegmentCodec[Any, Any] = KeyedSegmentCodec("totals", str, Everything)


def full_row() -> Everything:
    row = Everything(count=2, either="x", anything={"deep": [1, None]}, best=Item("fig", 2.5))
    row.items["pear"] = Item("pear", 1.0)
    row.places[(1, 2)] = 3
    row.recent.append(0.5)
    row.total.add(7)
    return row


def exported(checkpoint: OpenCheckpoint, path: Path) -> int:
    return export(OperatorTable(checkpoint, "totals"), path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> OpenCheckpoint:
    return checkpoint_of(tmp_path, base(CODEC, {"ann": full_row(), "eve": Everything()}))


def test_json_lines(checkpoint: OpenCheckpoint, tmp_path: Path) -> None:
    assert exported(checkpoint, tmp_path / "rows.jsonl") == 2
    rows = {row["key"]: row for row in map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())}
    assert rows["eve"] == {
        "key": "eve",
        "key_group": rows["eve"]["key_group"],
        "count": 0,
        "colour": "red",
        "since": "2026-01-01T00:00:00Z",
        "day": "2026-01-02",
        "id": "00000000-0000-0000-0000-000000000001",
        "raw": "/w==",
        "nothing": None,
        "either": 0,
        "anything": None,
        "best": None,
        "pair": [1, "x"],
        "items": {},
        "places": {},
        "recent": [],
        "total": None,
    }
    assert rows["ann"]["items"] == {"pear": {"name": "pear", "price": 1.0}}
    assert rows["ann"]["places"] == [{"key": [1, 2], "value": 3}]
    assert (rows["ann"]["recent"], rows["ann"]["total"]) == ([0.5], 7)


def test_parquet_has_the_types_that_were_declared(checkpoint: OpenCheckpoint, tmp_path: Path) -> None:
    assert exported(checkpoint, tmp_path / "rows.parquet") == 2
    table = parquet.read_table(tmp_path / "rows.parquet")
    item = pa.struct([("name", pa.string()), ("price", pa.float64())])
    types = {field.name: field.type for field in table.schema}
    assert types == {
        "key": pa.string(),
        "key_group": pa.int64(),
        "count": pa.int64(),
        "colour": pa.string(),
        "since": pa.timestamp("us", tz="UTC"),
        "day": pa.date32(),
        "id": pa.string(),
        "raw": pa.binary(),
        "nothing": pa.string(),
        "either": pa.string(),
        "anything": pa.string(),
        "best": item,
        "pair": pa.string(),
        "items": pa.map_(pa.string(), item),
        "places": pa.string(),
        "recent": pa.list_(pa.float64()),
        "total": pa.int64(),
    }
    rows = {row["key"]: row for row in table.to_pylist()}
    ann, eve = rows["ann"], rows["eve"]
    assert (ann["best"], ann["items"]) == ({"name": "fig", "price": 2.5}, [("pear", {"name": "pear", "price": 1.0})])
    assert (ann["either"], ann["anything"]) == ("x", '{"deep":[1,null]}')
    assert (eve["either"], eve["anything"], eve["pair"]) == ("0", None, '[1,"x"]')
    assert (ann["recent"], ann["total"], eve["total"]) == ([0.5], 7, None)
    assert eve["since"] == datetime.datetime(2026, 1, 1, tzinfo=UTC)


def test_parquet_of_a_class_whose_types_changed(tmp_path: Path) -> None:
    class Newer(mo.KeyedState):
        count: str = ""
        added: int = 0

    newer: KeyedSegmentCodec[Any, Any] = KeyedSegmentCodec("totals", str, Newer)
    changed = delta(newer, {"b": Newer(count="two", added=5)}, ["b"])
    checkpoint = checkpoint_of(tmp_path, base(TOTALS, {"a": Total(count=1), "b": Total()}), changed)
    assert exported(checkpoint, tmp_path / "rows.parquet") == 2
    rows = {row["key"]: row for row in parquet.read_table(tmp_path / "rows.parquet").to_pylist()}
    assert (rows["a"]["count"], rows["a"]["added"]) == ("1", None)
    assert (rows["b"]["count"], rows["b"]["added"], rows["b"]["where"]) == ("two", 5, None)


def test_elements_of_lists_of_an_operator_without_keys(tmp_path: Path) -> None:
    elements = [[{"a": 1}, "text"], [7]]
    subtasks = {}
    for subtask, values in enumerate(elements):
        parts = [msgspec.msgpack.encode(value) for value in values]
        offsets = tuple(sum(map(len, parts[:index])) for index in range(len(parts)))
        states = {
            "kept": StateMetaInfo(offsets, DistributionMode.SPLIT),
            "none": StateMetaInfo((), DistributionMode.UNION),
        }
        handle = OperatorStreamHandle(states, ByteStreamHandle("kept", b"".join(parts)))
        subtasks[subtask] = OperatorSubtaskState(managed_operator=(handle,))
    state = OperatorState(
        operator=OperatorId("0" * 32),
        uid=OperatorUid("totals"),
        name=None,
        parallelism=2,
        max_parallelism=2,
        subtasks=subtasks,
    )
    metadata = with_origin(CheckpointMetadata(checkpoint=CheckpointId(3), operators=(state,)), ORIGIN)
    checkpoint = open_checkpoint(str(write_metadata(tmp_path / "savepoint-1", metadata)))
    expected = [
        {"state": "kept", "subtask": subtask, "index": index, "value": value}
        for subtask, values in enumerate(elements)
        for index, value in enumerate(values)
    ]
    assert list(mo.read_state(str(tmp_path / "savepoint-1"), "totals")) == expected
    assert exported(checkpoint, tmp_path / "rows.parquet") == 3
    values = parquet.read_table(tmp_path / "rows.parquet")["value"].to_pylist()
    assert values == ['{"a":1}', "text", "7"]


def test_where_a_source_goes_on(tmp_path: Path) -> None:
    folder = orders_checkpoint(tmp_path)
    rows = list(mo.read_state(str(folder), "orders"))
    assert {(row["state"], row["value"]["topic"]) for row in rows} == {(SOURCE_OFFSETS, "orders")}
    assert sum(row["value"]["offset"] for row in rows) == 2 * USERS


def test_an_operator_without_state_is_an_empty_table(tmp_path: Path) -> None:
    assert exported(checkpoint_of(tmp_path), tmp_path / "rows.parquet") == 0
    assert parquet.read_table(tmp_path / "rows.parquet").column_names == ["state", "subtask", "index", "value"]


def test_a_failed_export_leaves_what_was_there(tmp_path: Path) -> None:
    class Big(mo.KeyedState):
        count: int = 0

    codec: KeyedSegmentCodec[Any, Any] = KeyedSegmentCodec("totals", str, Big)
    checkpoint = checkpoint_of(tmp_path, base(codec, {"a": Big(count=2**64 - 1)}))
    (tmp_path / "rows.parquet").write_bytes(b"former")
    with pytest.raises(ExportError, match=r"rows do not fit their types in Parquet .*: export JSON lines"):
        exported(checkpoint, tmp_path / "rows.parquet")
    assert (tmp_path / "rows.parquet").read_bytes() == b"former"
    with pytest.raises(SettingError, match=r"rows\.csv: the name must end in \.parquet, \.jsonl, \.ndjson"):
        exported(checkpoint, tmp_path / "rows.csv")
    with pytest.raises(ExportError, match=r"can't write .*No such file"):
        exported(checkpoint, tmp_path / "nowhere" / "rows.jsonl")
    (path,) = checkpoint.metadata.paths()
    (tmp_path / path).write_bytes(bytes((tmp_path / path).stat().st_size))
    with pytest.raises(CorruptDataError, match=path):
        exported(checkpoint, tmp_path / "rows.parquet")
    assert [file.name for file in tmp_path.glob("rows*")] == ["rows.parquet"]


def test_without_pyarrow_it_says_what_to_install(checkpoint: OpenCheckpoint, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from pathlib import Path; from moorage.inspect.export import export\n"
        "export(None, Path(sys.argv[1]))"
    )
    path = str(tmp_path / "rows.parquet")
    result = subprocess.run([sys.executable, "-c", code, path], check=False, capture_output=True, text=True)
    assert result.stderr.endswith("SettingError: Parquet needs pyarrow: pip install 'moorage[parquet]'\n")


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
def test_metadata_in_other_versions_of_the_format(tmp_path: Path, version: int) -> None:
    checkpoint = checkpoint_of(tmp_path, base(TOTALS, {"a": Total(count=1)}))
    export_metadata(checkpoint, version, tmp_path / "orders" / "chk-3" / "_metadata")
    again = open_checkpoint(str(tmp_path / "orders" / "chk-3"))
    assert (again.version, again.intact) == (version, True)
    assert [o.operator for o in again.metadata.operators] == [o.operator for o in checkpoint.metadata.operators]
    (row,) = OperatorTable(again, again.metadata.operators[0].operator).records()
    assert (row["key"], row["count"]) == ("a", 1)


def test_metadata_of_flink_in_another_version(tmp_path: Path) -> None:
    golden = Path(__file__).parents[2] / "compatibility" / "flink" / "golden"
    export_metadata(open_checkpoint(str(golden / "job-heap")), 4, tmp_path / "_metadata")
    assert open_checkpoint(str(tmp_path)).version == 4
    with pytest.raises(MetadataError, match="version 2 has no room for a coordinator state"):
        export_metadata(open_checkpoint(str(golden / "job-heap")), 2, tmp_path / "_metadata")
    assert open_checkpoint(str(tmp_path)).version == 4
