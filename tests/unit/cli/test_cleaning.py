"""`moorage clean` and `moorage purge` on servers in memory."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from tests.unit.cleaner.jobs import JOB, KEYED_LOG, exclusive, metadata
from tests.unit.cleaner.world import OPTIONS, World
from tests.unit.cli.test_app import run

from moorage.config import StorageSettings
from moorage.errors import CorruptDataError, StorageError
from moorage.ids import CheckpointId, JobId
from moorage.messages.cleanup import PurgeJob
from moorage.messages.registry import JobStatus
from moorage.naming import CLEANUP_TOPIC
from moorage.serde import control
from moorage_cli.cleaning import (
    Cleaning,
    NotPossibleError,
    PurgeScreen,
    Removed,
    files_table,
    findings,
    removed_text,
    summary_table,
)
from moorage_service.wiring import present_checkpoint_storage


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
    removed = servers.purge(shown, lambda *_: None)
    assert world.storage.paths() == []
    assert world.registry.jobs() == []
    assert sorted(world.log.topics()) == [CLEANUP_TOPIC]
    assert removed.topics == 3
    (message,) = world.cluster.records(CLEANUP_TOPIC, read_committed=False)
    assert message.value is not None
    request = control.decode(message.value, control.CLEANUP)
    assert isinstance(request, PurgeJob)
    assert (request.job, request.submitted_ms) == (JOB, submitted_ms)


def test_a_purge_tells_what_it_does_and_waits_for(world: World) -> None:
    world.end()
    held = msgspec.structs.replace(world.options, purge_hold_ms=60)
    servers = Cleaning(world.registry, world.storage, world.log, held)
    console = Console(width=200, file=StringIO())
    told: list[int | None] = []
    with console.capture() as capture, PurgeScreen(JOB, console) as screen:

        def tell(removed: Removed, held_ms: int | None) -> None:
            told.append(held_ms)
            screen.tell(removed, held_ms)

        servers.purge(servers.preview_purge(JOB), tell)
    waits = [held_ms for held_ms in told if held_ms is not None]
    assert told[0] is None
    assert waits == sorted(waits, reverse=True)
    assert waits[0] > 0
    text = " ".join(capture.get().split())
    assert text.count("The registry forgets orders in 1 s (MOORAGE_CLEANER_PURGE_HOLD_MS)") == 1
    assert "Deleted: 4 files" in text
    assert "3 topics" in text


def test_a_purge_says_which_savepoints_stay(world: World, servers: Cleaning) -> None:
    world.checkpoint([exclusive(3, "all")], kind="savepoint")
    world.end(JobStatus.FAILED)
    shown = servers.preview_purge(JOB)
    stays = [finding for finding in findings(shown) if not finding.goes]
    assert [(finding.what, finding.name) for finding in stays] == [("savepoint", metadata(3))]
    assert "until disposed of" in shown_text(summary_table([shown]))
    servers.purge(shown, lambda *_: None)
    assert world.storage.paths() == sorted([metadata(3), exclusive(3, "all")])
    assert [record.checkpoint for record in world.registry.checkpoints(JOB)] == [CheckpointId(3)]
    assert [record.job for record in world.registry.jobs()] == [JOB]


@pytest.mark.parametrize(
    "command",
    [["clean", "--now"], ["clean", "--dry-run"], ["purge", "orders", "--yes"], ["registry", "rebuild", "orders"]],
    ids=" ".join,
)
def test_a_storage_that_is_not_there_is_refused_and_not_made(tmp_path: Path, command: list[str]) -> None:
    storage = tmp_path / "checkpoints"
    result = run(*command, MOORAGE_CHECKPOINT_DIR=str(storage))
    assert result.returncode == 1
    assert result.stderr == (
        f"moorage: there is no checkpoint storage at {storage}: set MOORAGE_CHECKPOINT_DIR to that of the services\n"
    )
    assert not storage.exists()


def test_a_storage_that_is_there_may_be_written_to(tmp_path: Path) -> None:
    storage = present_checkpoint_storage(StorageSettings(checkpoint_dir=str(tmp_path)))
    storage.write("orders/chk-1/_metadata", b"x")
    assert storage.read("orders/chk-1/_metadata") == b"x"


def test_a_redis_that_does_not_answer_is_named_with_its_setting(tmp_path: Path) -> None:
    result = run("clean", "--now", MOORAGE_CHECKPOINT_DIR=str(tmp_path), MOORAGE_REDIS_URL="redis://127.0.0.1:1")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("moorage: Redis at 127.0.0.1:1, PING: ")
    assert result.stderr.endswith(" (MOORAGE_REDIS_URL names it)\n")
