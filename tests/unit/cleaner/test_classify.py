"""Every verdict, and the order of deletion."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.cleaner.jobs import TOTALS, exclusive, job_record, metadata, shared

from moorage.cleaner.classify import JobFacts, SweepPlan, Verdict, plan_sweep
from moorage.ids import Attempt, CheckpointId, VertexId
from moorage.messages.registry import CheckpointRecord, JobRecord, JobStatus, LineageSegment
from moorage.ports import ObjectInfo

NOW_MS = 1_000_000
GRACE_AGE_MS = 10_000
OLD_MS = NOW_MS - GRACE_AGE_MS
YOUNG_MS = OLD_MS + 1


def record(checkpoint: int, kind: str = "checkpoint") -> CheckpointRecord:
    return CheckpointRecord(
        checkpoint=CheckpointId(checkpoint),
        attempt=job_record().attempt,
        kind="savepoint" if kind == "savepoint" else "checkpoint",
        metadata_path=metadata(checkpoint),
        metadata_bytes=0,
        metadata_checksum=0,
        triggered_ms=0,
        completed_ms=0,
        state_bytes=0,
    )


def facts(
    *,
    last: int = 20,
    job: JobRecord | None = None,
    retained: tuple[CheckpointRecord, ...] = (),
    completed: tuple[int, ...] = (),
    discarded: tuple[int, ...] = (),
) -> JobFacts:
    return JobFacts(
        last_checkpoint=CheckpointId(last),
        record=job or job_record(attempt=3),
        discarded=frozenset(CheckpointId(n) for n in discarded),
        retained=retained,
        completed=frozenset(CheckpointId(n) for n in completed),
    )


USUAL = facts(retained=(record(9), record(10)), completed=(5, 7, 9, 10), discarded=(12,))


def verdict_of(
    path: str, of: JobFacts = USUAL, *, referenced: set[str] | None = None, modified_ms: int = OLD_MS
) -> Verdict:
    plan = plan_of([ObjectInfo(path, 7, modified_ms)], of, referenced=referenced)
    if plan.deletions:
        (deletion,) = plan.deletions
        assert (deletion.path, deletion.size_bytes, deletion.modified_ms) == (path, 7, modified_ms)
        assert not plan.kept
        return deletion.verdict
    ((verdict, tally),) = plan.kept.items()
    assert (tally.files, tally.size_bytes) == (1, 7)
    return verdict


def plan_of(
    listing: list[ObjectInfo], of: JobFacts = USUAL, *, referenced: set[str] | None = None, purge: bool = False
) -> SweepPlan:
    return plan_sweep(of, referenced or set(), listing, now_ms=NOW_MS, grace_age_ms=GRACE_AGE_MS, purge=purge)


@pytest.mark.parametrize("path", [shared(5), exclusive(9), shared(12), metadata(5), "elsewhere/file"])
def test_what_a_retained_checkpoint_refers_to_is_kept_whatever_it_is(path: str) -> None:
    assert verdict_of(path, referenced={path}) is Verdict.KEEP_REFERENCED


def test_the_metadata_of_a_retained_checkpoint_is_kept_without_being_referred_to() -> None:
    assert verdict_of(metadata(9)) is Verdict.KEEP_REFERENCED


@pytest.mark.parametrize(
    "path",
    [
        "orders/readme.txt",
        "orders/chk-5/notes",
        "orders/chk-05/_metadata",
        "orders/chk-5/deep/totals-0-a1-state",
        "orders/shared/totals-0-a1-chain",
        "orders/shared/5-_metadata",
        "orders/savepoint-5/_metadata",
        "other/chk-5/_metadata",
        "other/chk-5/totals-0-a1-state",
    ],
)
def test_what_naming_did_not_build_for_this_job_is_never_touched(path: str) -> None:
    assert verdict_of(path) is Verdict.KEEP_FOREIGN


@pytest.mark.parametrize("path", [exclusive(5), shared(7), metadata(7)])
def test_files_of_a_subsumed_checkpoint_go_at_once(path: str) -> None:
    assert verdict_of(path, modified_ms=NOW_MS) is Verdict.DELETE_SUBSUMED


@pytest.mark.parametrize("path", [exclusive(12, attempt=3), shared(12, attempt=3), metadata(12)])
def test_files_of_a_checkpoint_that_is_called_aborted_go_at_once(path: str) -> None:
    assert verdict_of(path, modified_ms=NOW_MS) is Verdict.DELETE_ABORTED


@pytest.mark.parametrize("path", [exclusive(11, attempt=3), shared(11, attempt=3), metadata(11), shared(99, attempt=4)])
def test_files_of_a_checkpoint_that_may_still_complete_are_kept(path: str) -> None:
    assert verdict_of(path) is Verdict.KEEP_IN_PROGRESS


def test_files_of_a_part_that_went_on_while_others_restarted_are_kept() -> None:
    lineage = (LineageSegment(Attempt(2), None, {VertexId("other"): 1}), LineageSegment(Attempt(3), None, {TOTALS: 1}))
    partly = msgspec.structs.replace(USUAL, record=msgspec.structs.replace(USUAL.record, lineage=lineage))
    assert verdict_of(exclusive(11, attempt=2)) is Verdict.DELETE_ABORTED
    assert verdict_of(exclusive(11, attempt=2), partly) is Verdict.KEEP_IN_PROGRESS
    assert verdict_of(exclusive(11, attempt=1), partly) is Verdict.DELETE_ABORTED


@pytest.mark.parametrize(
    ("path", "verdict"),
    [
        # Below the newest completed one and not completed: it was aborted.
        (exclusive(8), Verdict.DELETE_ABORTED),
        (metadata(6), Verdict.DELETE_ABORTED),
        # An earlier attempt's.
        (exclusive(11, attempt=2), Verdict.DELETE_ABORTED),
        # Older than what the registry remembers.
        (shared(4), Verdict.DELETE_ORPHAN),
        # Written for a retained checkpoint that does not refer to it.
        (shared(10), Verdict.DELETE_ORPHAN),
    ],
)
def test_what_nobody_needs_and_nobody_spoke_of_goes_when_it_is_old(path: str, verdict: Verdict) -> None:
    assert verdict_of(path) is verdict
    assert verdict_of(path, modified_ms=YOUNG_MS) is Verdict.KEEP_YOUNG


def test_a_savepoint_decides_nothing_about_checkpoints_below_it() -> None:
    with_savepoint = facts(retained=(record(9), record(15, "savepoint")), completed=(9, 15))
    assert verdict_of(exclusive(11, attempt=3), with_savepoint) is Verdict.KEEP_IN_PROGRESS
    assert verdict_of(metadata(15), with_savepoint) is Verdict.KEEP_REFERENCED


def test_an_ended_job_completes_no_checkpoint_that_it_was_given() -> None:
    ended = facts(job=job_record(attempt=3, status=JobStatus.CANCELED), retained=(record(10),), completed=(10,))
    assert verdict_of(exclusive(20, attempt=3), ended) is Verdict.DELETE_ABORTED
    # A later life of the name may have started since.
    assert verdict_of(exclusive(21, attempt=4), ended) is Verdict.KEEP_IN_PROGRESS


def test_what_an_earlier_life_of_the_name_left_goes() -> None:
    new_life = facts(job=job_record(attempt=3, base=20), last=20)
    assert verdict_of(exclusive(20, attempt=3), new_life) is Verdict.DELETE_ORPHAN
    assert verdict_of(metadata(20), new_life) is Verdict.DELETE_ORPHAN
    assert verdict_of(exclusive(21, attempt=3), new_life) is Verdict.KEEP_IN_PROGRESS


def test_metadata_goes_first_and_oldest_first() -> None:
    paths = [shared(7, "b"), metadata(7), exclusive(5), shared(5), metadata(5), shared(7, "a")]
    plan = plan_of([ObjectInfo(path, 1, OLD_MS) for path in paths])
    expected = [metadata(5), metadata(7), exclusive(5), shared(5), shared(7, "a"), shared(7, "b")]
    assert [deletion.path for deletion in plan.deletions] == expected
    assert [[deletion.path for deletion in batch] for batch in plan.batches(3)] == [
        expected[:2],
        expected[2:5],
        expected[5:],
    ]


@pytest.mark.parametrize(
    ("metadata_modified_ms", "verdict"),
    [(YOUNG_MS, Verdict.KEEP_YOUNG), (OLD_MS, Verdict.DELETE_ABORTED)],
)
def test_files_stay_as_long_as_their_metadata(metadata_modified_ms: int, verdict: Verdict) -> None:
    plan = plan_of([ObjectInfo(metadata(8), 1, metadata_modified_ms), ObjectInfo(exclusive(8), 1, OLD_MS)])
    verdicts = {deletion.verdict for deletion in plan.deletions} | set(plan.kept)
    assert verdicts == {verdict}


def test_a_file_of_an_earlier_attempt_stays_while_the_metadata_of_its_checkpoint_is_undecided() -> None:
    plan = plan_of([ObjectInfo(exclusive(11, attempt=2), 1, OLD_MS), ObjectInfo(metadata(11), 1, OLD_MS)])
    assert not plan.deletions
    assert plan.kept[Verdict.KEEP_IN_PROGRESS].files == 2


def test_nothing_goes_when_the_registry_remembers_no_checkpoint_but_the_storage_does() -> None:
    lost = facts(job=job_record(attempt=9), last=0)
    listing = [ObjectInfo(path, 1, OLD_MS) for path in (metadata(5), exclusive(5), exclusive(4))]
    plan = plan_of(listing, lost)
    assert plan.unregistered == (listing[0],)
    assert not plan.deletions
    # A purge knows no doubt.
    purged = plan_of(listing, facts(job=job_record(attempt=9, status=JobStatus.FAILED)), purge=True)
    assert [deletion.path for deletion in purged.deletions] == [metadata(5), exclusive(4), exclusive(5)]


def test_a_purge_waits_for_no_grace() -> None:
    ended = facts(job=job_record(attempt=3, status=JobStatus.CANCELED))
    plan = plan_of([ObjectInfo(exclusive(20, attempt=3), 1, NOW_MS)], ended, purge=True)
    assert [deletion.path for deletion in plan.deletions] == [exclusive(20, attempt=3)]


def test_only_checkpoints_of_this_life_say_where_its_logs_are_read() -> None:
    """A job that goes on from a savepoint reads its exchanges from the beginning, whatever an earlier life left."""
    retained = (record(19), record(20, "savepoint"), record(21), record(22, "savepoint"))
    new_life = facts(job=job_record(attempt=3, base=20), retained=retained)
    assert [known.checkpoint for known in new_life.in_the_logs] == [21]
    assert facts(job=job_record(attempt=3, base=20), retained=retained[:2]).in_the_logs == ()
