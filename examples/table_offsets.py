"""A master hook: it writes down with each checkpoint how far a table of a SQLite database has grown.

Let some other program append rows to the table ``orders``. Restored from a checkpoint, the hook deletes the rows that
came after it, so table and job are at the same point again. Try it::

    export MOORAGE_MASTER_HOOKS=examples.table_offsets:table_offsets
    export TABLE_OFFSETS_DB=orders.db
    moorage dev
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import msgspec


class TableOffset(msgspec.Struct):
    """The state that goes into the checkpoint."""

    rowid: int


class TableOffsetSerializer:
    """Its bytes, with a version so that it may change later."""

    version = 1

    def serialize(self, state: TableOffset) -> bytes:
        return msgspec.json.encode(state)

    def deserialize(self, version: int, data: bytes) -> TableOffset:
        if version != self.version:
            raise ValueError(f"table offsets of version {version} are not known")
        return msgspec.json.decode(data, type=TableOffset)


class TableOffsetHook:
    """The hook of one job."""

    identifier = "table-offsets"
    serializer = TableOffsetSerializer()

    def __init__(self, job: str, path: str) -> None:
        self._job = job
        self._path = path
        with self._database() as database:
            database.execute("CREATE TABLE IF NOT EXISTS orders (user TEXT, amount REAL)")
            database.execute(
                "CREATE TABLE IF NOT EXISTS checkpoints (job TEXT, id INTEGER, time_ms INTEGER, rows INTEGER)"
            )

    def trigger(self, checkpoint: int, timestamp_ms: int) -> TableOffset:
        with self._database() as database:
            (rowid,) = database.execute("SELECT coalesce(max(rowid), 0) FROM orders").fetchone()
            database.execute(
                "INSERT INTO checkpoints VALUES (?, ?, ?, ?)", (self._job, checkpoint, timestamp_ms, rowid)
            )
        return TableOffset(rowid)

    def restore(self, checkpoint: int, state: TableOffset | None) -> None:
        if state is None:
            return  # the checkpoint was taken before there was this hook
        with self._database() as database:
            database.execute("DELETE FROM orders WHERE rowid > ?", (state.rowid,))
            database.execute("DELETE FROM checkpoints WHERE job = ? AND id > ?", (self._job, checkpoint))

    def reset(self) -> None:
        with self._database() as database:
            # The rows stay: others wrote them, and a job that starts from nothing has not seen any of them yet.
            database.execute("DELETE FROM checkpoints WHERE job = ?", (self._job,))

    def close(self) -> None:
        """Every call opens the database by itself: nothing is held."""

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """A transaction."""
        with closing(sqlite3.connect(self._path)) as database, database:
            yield database


def table_offsets(job: str) -> TableOffsetHook | None:
    """What MOORAGE_MASTER_HOOKS names: the hook of a job, None where there is nothing to do."""
    path = os.environ.get("TABLE_OFFSETS_DB")
    return None if path is None else TableOffsetHook(job, path)
