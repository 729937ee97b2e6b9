"""The example of a master hook, in a job that goes back to a checkpoint."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from examples.table_offsets import TableOffset, TableOffsetSerializer, table_offsets

from moorage.coordinator_process.hooks import HookRunner
from moorage.effects import RestoreHooks, TriggerHooks
from moorage.ids import Attempt, CheckpointId, Epoch, JobId
from moorage.state.operator_state import MasterState

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


def trigger(checkpoint: int) -> TriggerHooks:
    return TriggerHooks(
        epoch=Epoch(1),
        job=JOB,
        attempt=Attempt(1),
        checkpoint=CheckpointId(checkpoint),
        triggered_ms=checkpoint * 1_000,
    )


def restore(checkpoint: CheckpointId | None, states: tuple[MasterState, ...]) -> RestoreHooks:
    return RestoreHooks(
        epoch=Epoch(1),
        job=JOB,
        attempt=Attempt(2),
        checkpoint=checkpoint,
        states=states,
        allow_non_restored=False,
    )


def test_the_table_goes_back_with_the_job(database: Path) -> None:
    runner = HookRunner([table_offsets])
    hook = table_offsets(JOB)
    assert hook is not None
    add_orders(database, 3)
    states = runner.run(trigger(1))
    add_orders(database, 2)
    runner.run(trigger(2))
    assert [(row[1], row[3]) for row in rows(database, "checkpoints")] == [(1, 3), (2, 5)]
    runner.run(restore(CheckpointId(1), states))
    assert len(rows(database, "orders")) == 3
    assert [row[1] for row in rows(database, "checkpoints")] == [1]
    runner.run(restore(None, ()))
    assert len(rows(database, "orders")) == 3  # others wrote them
    assert rows(database, "checkpoints") == []


def test_a_state_of_a_later_version_is_refused() -> None:
    serializer = TableOffsetSerializer()
    assert serializer.deserialize(1, serializer.serialize(TableOffset(7))) == TableOffset(7)
    with pytest.raises(ValueError, match="version 2"):
        serializer.deserialize(2, b"")


def test_a_job_without_a_database_has_no_hook() -> None:
    assert table_offsets("orders") is None
