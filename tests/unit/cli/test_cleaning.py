"""`moorage clean` and `moorage purge` on servers in memory."""

from __future__ import annotations

from io import StringIO

import msgspec
import pytest
from rich.console import Console
from tests.unit.cleaner.jobs import JOB, KEYED_LOG, exclusive, metadata
from tests.unit.cleaner.world import OPTIONS, World

from moorage.errors import CorruptDataError, StorageError
from moorage.ids import CheckpointId, JobId
from moorage.messages.cleanup import PurgeJob
from moorage.messages.registry import JobStatus
from moorage.naming import CLEANUP_TOPIC
from moorage.serde import control
from moorage_cli.cleaning import (
    Cleaning,
    NotPossibleError,
    files_table,
    findings,
    removed_text,
    summary_table,
)


@pytest.fixture
def world() -> World:
    world = World(msgspec.structs.replace(OPTIONS, purge_hold_ms=0))
    world.submit()
    world.append(KEYED_LOG[0], 5)
    world.checkpoint([exclusive(1)], positions=[1, 0])
    world.checkpoint([exclusive(2)], positions=[3, 0])
    return world


@pytest.fixture
def servers(world: World) -> Cleaning:
    return Cleaning(world.registry, world.storage, world.log, world.options)


def shown_text(table: object) -> str:
    console = Console(width=200, file=StringIO())
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_a_dry_run_names_everything_with_reason_and_size_and_deletes_nothing(world: World, servers: Cleaning) -> None:
    world.storage.begin_upload(exclusive(1, "big"))
    before = world.storage.paths()
    shown = servers.preview(JOB)
    found = {(finding.what, finding.name, finding.reason) for finding in findings(shown)}
    assert found == {
        ("file", metadata(1), "subsumed"),
        ("file", exclusive(1), "subsumed"),
        ("upload", exclusive(1, "big"), "unfinished"),
        ("log", "moorage.orders.source--totals/0", "3 offsets below 3"),
    }
    assert next(f.size_bytes for f in findings(shown) if f.name == exclusive(1)) == 5
    assert exclusive(1) in shown_text(files_table([shown]))
    summary = shown_text(summary_table([shown]))
    assert "subsumed" in summary
    assert "stays: referenced" in summary
    assert world.storage.paths() == before


def test_a_dry_run_says_when_uploads_can_not_be_listed(world: World, servers: Cleaning) -> None:
    world.storage.faults.fail_next("uploads", StorageError("not without boto3"))
    stays = [finding for finding in findings(servers.preview(JOB)) if finding.what == "upload"]
    assert [(finding.name, finding.goes) for finding in stays] == [("not without boto3", False)]


def test_cleaning_now_does_it(world: World, servers: Cleaning) -> None:
    removed = servers.clean(None)
    assert world.storage.paths() == sorted([metadata(2), exclusive(2)])
    assert removed_text(removed).startswith("2 files (subsumed")
    assert "3 offsets" in removed_text(removed)
    assert removed_text(servers.clean(JOB)) == "nothing"


def test_cleaning_one_job_leaves_the_others(world: World, servers: Cleaning) -> None:
    servers.clean(JobId("zebra"))
    assert metadata(1) in world.storage.paths()


def test_an_error_ends_it(world: World, servers: Cleaning) -> None:
    world.storage.corrupt(metadata(2))
    with pytest.raises(CorruptDataError):
        servers.preview(JOB)
    with pytest.raises(CorruptDataError):
        servers.clean(None)
    assert metadata(1) in world.storage.paths()


def test_a_purge_is_refused_for_a_job_that_runs_and_for_an_unknown_one(servers: Cleaning) -> None:
    with pytest.raises(NotPossibleError, match="job orders is RUNNING: cancel it first"):
        servers.preview_purge(JOB)
    with pytest.raises(NotPossibleError, match="no job zebra"):
        servers.preview_purge(JobId("zebra"))


def test_a_purge_leaves_nothing_and_tells_the_cleaner(world: World, servers: Cleaning) -> None:
    world.end()
    shown = servers.preview_purge(JOB)
    assert {finding.what for finding in findings(shown)} == {
        "checkpoint",
        "file",
        "log",
        "topic",
        "group",
        "transactional id",
    }
    submitted_ms = world.record.submitted_ms
    removed = servers.purge(shown)
    assert world.storage.paths() == []
    assert world.registry.jobs() == []
    assert sorted(world.log.topics()) == [CLEANUP_TOPIC]
    assert removed.topics == 3
    (message,) = world.cluster.records(CLEANUP_TOPIC, read_committed=False)
    assert message.value is not None
    request = control.decode(message.value, control.CLEANUP)
    assert isinstance(request, PurgeJob)
    assert (request.job, request.submitted_ms) == (JOB, submitted_ms)


def test_a_purge_says_which_savepoints_stay(world: World, servers: Cleaning) -> None:
    world.checkpoint([exclusive(3, "all")], kind="savepoint")
    world.end(JobStatus.FAILED)
    shown = servers.preview_purge(JOB)
    stays = [finding for finding in findings(shown) if not finding.goes]
    assert [(finding.what, finding.name) for finding in stays] == [("savepoint", metadata(3))]
    assert "until disposed of" in shown_text(summary_table([shown]))
    servers.purge(shown)
    assert world.storage.paths() == sorted([metadata(3), exclusive(3, "all")])
    assert [record.checkpoint for record in world.registry.checkpoints(JOB)] == [CheckpointId(3)]
    assert [record.job for record in world.registry.jobs()] == [JOB]
