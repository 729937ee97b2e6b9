"""What people are shown before anything is deleted."""

from __future__ import annotations

import pytest
from tests.unit.cleaner.jobs import JOB, KEYED_LOG, TOPICS, exclusive, metadata, shared
from tests.unit.cleaner.world import OPTIONS, World

from moorage.cleaner.classify import Verdict
from moorage.cleaner_process.on_demand import Preview, clean_once, preview, preview_purge
from moorage.errors import CorruptDataError, StorageError
from moorage.ids import CheckpointId, JobId
from moorage.messages.registry import JobStatus
from moorage.naming import CLEANUP_TOPIC


@pytest.fixture
def world() -> World:
    world = World()
    world.submit()
    world.append(KEYED_LOG[1], 5)
    world.checkpoint([exclusive(1), shared(1)], positions=[0, 1])
    world.checkpoint([exclusive(2)], others=[shared(1)], positions=[0, 3])
    return world


def show(world: World, job: JobId = JOB) -> Preview | None:
    return preview(world.registry, world.storage, world.log, world.clock, OPTIONS, job)


def test_a_preview_says_what_would_go_and_why(world: World) -> None:
    shown = show(world)
    assert shown is not None
    assert [(deletion.path, deletion.verdict.reason) for deletion in shown.plan.deletions] == [
        (metadata(1), "subsumed"),
        (exclusive(1), "subsumed"),
    ]
    assert shown.plan.kept[Verdict.KEEP_REFERENCED].files == 3
    assert shown.cuts == {KEYED_LOG[1]: (0, 3)}
    assert metadata(1) in world.storage.paths()


def test_a_preview_tells_of_uploads_or_why_it_can_not(world: World) -> None:
    upload = world.storage.begin_upload(shared(1, "big"))
    world.clock.advance(OPTIONS.grace_age_ms)
    shown = show(world)
    assert shown is not None
    assert shown.uploads == (upload,)
    assert shown.uploads_error is None
    world.storage.faults.fail_next("uploads", StorageError("not without boto3"))
    shown = show(world)
    assert shown is not None
    assert shown.uploads == ()
    assert shown.uploads_error == "not without boto3"
    assert shown.plan.deletions


def test_what_a_preview_shows_is_what_cleaning_does(world: World) -> None:
    shown = show(world)
    assert shown is not None
    before = set(world.storage.paths())
    clean_once(world.process, world.clock, lambda: world.executor.run_all() or world.clock.advance(1))
    assert before - set(world.storage.paths()) == {deletion.path for deletion in shown.plan.deletions}
    assert world.log_start(KEYED_LOG[1]) == 3
    after = show(world)
    assert after is not None
    assert not after.plan.deletions
    assert not after.cuts


def test_a_purge_shows_everything_but_savepoints(world: World) -> None:
    world.checkpoint([exclusive(3, "all")], kind="savepoint")
    world.end()
    shown = preview_purge(world.registry, world.storage, world.log, world.clock, OPTIONS, JOB)
    assert shown is not None
    paths = {deletion.path for deletion in shown.plan.deletions}
    assert paths == {metadata(1), exclusive(1), shared(1), metadata(2), exclusive(2)}
    assert [kept.checkpoint for kept in shown.savepoints] == [3]
    assert not shown.topics
    world.registry.remove_checkpoint(world.epoch, JOB, CheckpointId(3))
    shown = preview_purge(world.registry, world.storage, world.log, world.clock, OPTIONS, JOB)
    assert shown is not None
    assert set(shown.topics) == {topic.name for topic in TOPICS} - {CLEANUP_TOPIC}
    assert shown.groups == ("moorage.orders.source",)
    assert shown.transactional_ids == ("moorage.orders.results.0-of-1",)


def test_a_preview_of_an_ended_job_shows_what_its_retention_discards(world: World) -> None:
    world.end(JobStatus.FINISHED)
    shown = show(world)
    assert shown is not None
    assert shown.checkpoints == (2,)
    assert {deletion.path for deletion in shown.plan.deletions} == set(world.storage.paths())
    assert shown.cuts == {KEYED_LOG[1]: (0, 5)}
    assert shown.is_over


def test_nothing_is_shown_of_what_is_not_known_or_not_readable(world: World) -> None:
    assert show(world, JobId("unknown")) is None
    assert preview_purge(world.registry, world.storage, world.log, world.clock, OPTIONS, JobId("unknown")) is None
    world.storage.corrupt(metadata(2))
    with pytest.raises(CorruptDataError):
        show(world)
