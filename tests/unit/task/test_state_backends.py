"""A whole job on either state backend, and on its way from one to the other."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from tests.unit.backends.backends import ALL, SMALL
from tests.unit.task.harness import Harness, orders_pipeline

import moorage as mo
from moorage.backends.memory import MemoryKeyedBackend
from moorage.backends.rocksdb_environment import RocksDbEnvironment
from moorage.backends.rocksdb_store import RocksDbStore
from moorage.errors import StateStoreError
from moorage.messages.barriers import SnapshotKind
from moorage.messages.events import DeclineReason
from moorage.state.handles import ByteStreamHandle, FileHandle, StreamHandle

ORDERS = [(f"user-{i % 7}", float(i)) for i in range(140)]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[RocksDbEnvironment]:
    environment = RocksDbEnvironment(tmp_path, SMALL)
    yield environment
    assert environment.members() == ()
    environment.close()


def pipeline(backend: Literal["memory", "rocksdb"], parallelism: int = 2) -> mo.Pipeline:
    made = orders_pipeline(parallelism)
    made.state = mo.StateConfig(backend=backend)
    return made


def finish(harness: Harness) -> None:
    for worker, _, _ in harness.workers:
        worker.close()


def go_on(harness: Harness, backend: Literal["memory", "rocksdb"], parallelism: int) -> None:
    """The next attempt, and more orders."""
    harness.deploy(pipeline=pipeline(backend, parallelism))
    harness.run(60)
    assert not harness.failures(), harness.failures()[0].failure
    harness.produce(ORDERS)
    harness.run(80)
    harness.checkpoint_now()


def assert_counted(harness: Harness, times: int) -> None:
    expected = list(range(1, times * len(ORDERS) // 7 + 1))
    assert {user: sorted(counts) for user, counts in harness.counts().items()} == {
        f"user-{i}": expected for i in range(7)
    }


def test_totals_go_on_over_restarts_and_rescales_in_rocksdb(environment: RocksDbEnvironment) -> None:
    harness = Harness(pipeline("rocksdb"), rocksdb=environment)
    go_on(harness, "rocksdb", 2)
    for parallelism in (1, 3, 2):
        go_on(harness, "rocksdb", parallelism)
    assert_counted(harness, 4)
    finish(harness)


def test_a_job_moves_to_rocksdb_with_any_checkpoint(environment: RocksDbEnvironment) -> None:
    harness = Harness(pipeline("memory"), rocksdb=environment)
    go_on(harness, "memory", 2)
    go_on(harness, "rocksdb", 3)
    assert_counted(harness, 2)
    finish(harness)


@pytest.mark.parametrize("way", [("memory", "rocksdb"), ("rocksdb", "memory")], ids=" to ".join)
def test_a_job_changes_its_backend_with_a_canonical_savepoint(
    way: tuple[Literal["memory", "rocksdb"], Literal["memory", "rocksdb"]], environment: RocksDbEnvironment
) -> None:
    before, after = way
    harness = Harness(pipeline(before), rocksdb=environment)
    go_on(harness, before, 2)
    savepoint = harness.trigger(SnapshotKind.SUSPEND)
    harness.run(40)
    harness.finalize(savepoint)
    harness.run(40)
    go_on(harness, after, 3)
    assert_counted(harness, 2)
    finish(harness)


def test_the_memory_backend_says_what_to_do_with_a_checkpoint_of_rocksdb(environment: RocksDbEnvironment) -> None:
    harness = Harness(pipeline("rocksdb"), rocksdb=environment)
    go_on(harness, "rocksdb", 2)
    harness.deploy(pipeline=pipeline("memory"))
    harness.run(60)
    failures = {event.failure or "" for event in harness.failures()}
    assert any("canonical savepoint" in failure for failure in failures), failures
    finish(harness)


def test_a_disk_that_is_full_declines_the_checkpoint_and_the_job_goes_on(
    environment: RocksDbEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = Harness(pipeline("rocksdb", 1), workers=1, rocksdb=environment)
    go_on(harness, "rocksdb", 1)

    def full(store: RocksDbStore, folder: Path) -> None:
        raise StateStoreError(f"can't snapshot local state in {store.folder}: IO error: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RocksDbStore, "link_files", full)
        harness.trigger()
        harness.run(30)
    (declined,) = harness.declined()
    assert (declined.reason, declined.vertex) == (DeclineReason.STORAGE, "totals")
    assert "No space left on device" in declined.detail
    harness.abort(declined.checkpoint)
    harness.produce(ORDERS)
    harness.run(60)
    harness.checkpoint_now()
    assert_counted(harness, 2)
    finish(harness)


def test_a_worker_without_a_folder_for_it_refuses_a_job_that_wants_rocksdb() -> None:
    harness = Harness(pipeline("rocksdb", 1), workers=1)
    harness.deploy()
    harness.run(20)
    assert "keeps its state in RocksDB, which this worker has no folder for" in (harness.failures()[0].failure or "")
    finish(harness)


class Pages(mo.KeyedState):
    seen: mo.MapState[str, int] = mo.MapState(ttl=mo.Ttl(after_ms=10_000))

    def process(self, value: list[str], ctx: mo.KeyedContext) -> None:
        self.seen[value[1]] = 1


@pytest.mark.parametrize("backend", ["memory", "rocksdb"])
def test_what_is_over_is_not_stored_where_no_record_comes_any_more(
    backend: Literal["memory", "rocksdb"], environment: RocksDbEnvironment
) -> None:
    made = mo.Pipeline("orders", parallelism=1, max_parallelism=8, state=mo.StateConfig(backend=backend))
    visits = made.source("orders", mo.KafkaSource("orders", value=mo.Json()))
    pages = visits.key_by(operator.itemgetter(0)).process("pages", Pages)
    pages.sink("results", mo.KafkaSink("totals", key=None))
    harness = Harness(made, workers=1, rocksdb=environment)
    harness.started()
    harness.append("orders", 0, msgspec.json.encode(["ann", "tea"]))
    harness.run(40)
    assert stored_pages(harness) == {"tea"}
    harness.clock.advance(10_000)
    assert stored_pages(harness) == set()
    finish(harness)


def stored_pages(harness: Harness) -> set[str]:
    """What a savepoint holds, over or not."""
    savepoint = harness.trigger(SnapshotKind.SAVEPOINT)
    harness.run(30)
    handles = [
        handle
        for ack in harness.acks(savepoint)
        for snapshot in ack.operators
        for handle in snapshot.state.managed_keyed
    ]
    assert handles

    def read(stream: StreamHandle) -> bytes:
        assert isinstance(stream, ByteStreamHandle | FileHandle)
        return stream.data if isinstance(stream, ByteStreamHandle) else harness.storage.read(stream.path)

    reader: MemoryKeyedBackend[Any, Pages] = MemoryKeyedBackend("pages", ALL, Any, Pages)
    rows = [row for group in reader.load(handles, read).rows.values() for row in group.values()]
    harness.finalize(savepoint)
    harness.run(20)
    return {page for row in rows for page in row.seen._entries}
