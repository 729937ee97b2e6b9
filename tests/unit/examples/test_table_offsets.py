"""The example of a master hook, in a job that goes back to a checkpoint."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from examples.table_offsets import TableOffset, TableOffsetSerializer, table_offsets

from moorage.coordinator_process.hooks import HookRunner
from moorage.effects import RestoreHooks, TriggerHooks
from moorage.ids import CheckpointId, JobId

JOB = JobId("orders")


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "orders.db"
    monkeypatch.setenv("TABLE_OFFSETS_DB", str(path))
    return path


def add_orders(database: Path, count: int) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany("INSERT INTO orders VALUES (?, ?)", [("ada", 1.0)] * count)


def rows(database: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - a name of this file


def test_the_table_goes_back_with_the_job(database: Path) -> None:
    runner = HookRunner([table_offsets])
    hook = table_offsets(JOB)
    assert hook is not None
    add_orders(database, 3)
    states = runner.run(TriggerHooks(job=JOB, checkpoint=CheckpointId(1), triggered_ms=1_000))
    add_orders(database, 2)
    runner.run(TriggerHooks(job=JOB, checkpoint=CheckpointId(2), triggered_ms=2_000))
    assert [(row[1], row[3]) for row in rows(database, "checkpoints")] == [(1, 3), (2, 5)]
    runner.run(RestoreHooks(job=JOB, checkpoint=CheckpointId(1), states=states, allow_non_restored=False))
    assert len(rows(database, "orders")) == 3
    assert [row[1] for row in rows(database, "checkpoints")] == [1]
    runner.run(RestoreHooks(job=JOB, checkpoint=None, states=(), allow_non_restored=False))
    assert rows(database, "orders") == []
    runner.close()


def test_a_state_of_a_later_version_is_refused() -> None:
    serializer = TableOffsetSerializer()
    assert serializer.deserialize(1, serializer.serialize(TableOffset(7))) == TableOffset(7)
    with pytest.raises(ValueError, match="version 2"):
        serializer.deserialize(2, b"")


def test_a_job_without_a_database_has_no_hook() -> None:
    assert table_offsets("orders") is None
