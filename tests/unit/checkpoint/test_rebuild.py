from __future__ import annotations

import msgspec
import pytest
from tests.unit.cluster.graphs import JOB, orders_graph

from moorage.checkpoint.rebuild import (
    ATTEMPTS_SKIPPED,
    IDS_SKIPPED,
    StoredCheckpoint,
    decode_record,
    encode_record,
    rebuilt_history,
)
from moorage.errors import CorruptDataError
from moorage.graph.job_graph import CheckpointConfig
from moorage.ids import Attempt, CheckpointId, VertexId, WorkerId
from moorage.messages.registry import CheckpointRecord, JobRecord, JobStatus, LineageSegment
from moorage.state.operator_state import CheckpointOrigin

GRAPH = orders_graph(checkpoint=CheckpointConfig(retained=2))
NOTHING_RUNS = Attempt(0)


def job(attempt: int, *lineage: tuple[int, int | None]) -> JobRecord:
    return JobRecord(
        job=JOB,
        graph=GRAPH,
        status=JobStatus.RUNNING,
        attempt=Attempt(attempt),
        submitted_ms=1,
        base_checkpoint_id=CheckpointId(0),
        slots=(WorkerId("w1/1"), WorkerId("w2/1")),
        lineage=tuple(
            LineageSegment(Attempt(a), None if end is None else CheckpointId(end), GRAPH.parallelism())
            for a, end in lineage
        ),
    )


def stored(checkpoint: int, record: JobRecord, completed: tuple[int, ...] = ()) -> StoredCheckpoint:
    return StoredCheckpoint(
        record=CheckpointRecord(
            checkpoint=CheckpointId(checkpoint),
            attempt=record.attempt,
            kind="checkpoint",
            metadata_path=f"orders/chk-{checkpoint}/_metadata",
            metadata_bytes=1,
            metadata_checksum=1,
            base=CheckpointId(checkpoint - 1),
            triggered_ms=1,
            completed_ms=2,
            state_bytes=3,
        ),
        origin=CheckpointOrigin(
            job=JOB,
            attempt=record.attempt,
            triggered_ms=1,
            record=encode_record(record),
            completed=tuple(map(CheckpointId, completed)),
        ),
    )


FIRST = job(1, (1, None))
SECOND = job(2, (1, 4), (2, None))


def test_nothing_is_rebuilt_from_nothing() -> None:
    assert rebuilt_history([], CheckpointId(7), NOTHING_RUNS) is None


def test_the_attempt_of_the_newest_checkpoint_goes_on() -> None:
    history = rebuilt_history([stored(5, SECOND, (1, 4)), stored(6, SECOND, (1, 4, 5))], CheckpointId(8), Attempt(2))
    assert history is not None
    assert history.record == SECOND
    assert [r.checkpoint for r in history.checkpoints] == [5, 6]
    assert history.completed_ids == (1, 4, 5, 6)
    assert history.last_checkpoint_id == 8 + IDS_SKIPPED
    assert history.last_attempt == 2


@pytest.mark.parametrize("running", [0, 1, 3, 7])
def test_another_attempt_gives_way_to_one_above_all_numbers_ever_given(running: int) -> None:
    history = rebuilt_history([stored(6, SECOND)], CheckpointId(6), Attempt(running))
    assert history is not None
    assert history.record is not None
    assert history.record.status is JobStatus.RESTARTING
    assert history.record.attempt == max(2, running) + ATTEMPTS_SKIPPED == history.last_attempt
    assert history.record.lineage == SECOND.lineage


def test_what_was_rolled_back_is_not_retained() -> None:
    """Attempt 2 started from checkpoint 4 of attempt 1: 5 and 6 of attempt 1 are in nobody's history."""
    found = [stored(n, FIRST) for n in (3, 4, 5, 6)] + [stored(7, SECOND)]
    history = rebuilt_history(found, CheckpointId(7), NOTHING_RUNS)
    assert history is not None
    assert [r.checkpoint for r in history.checkpoints] == [4, 7]


def test_a_checkpoint_is_in_the_history_only_if_it_is_in_that_of_every_part() -> None:
    """In attempt 2 one part went back to checkpoint 4, while another one went on."""
    first, other = VertexId("first"), VertexId("other")
    segments = ((1, 4, first), (1, None, other), (2, None, first))
    partly = msgspec.structs.replace(
        job(2),
        lineage=tuple(LineageSegment(Attempt(a), end and CheckpointId(end), {v: 1}) for a, end, v in segments),
    )
    found = [stored(n, FIRST) for n in (3, 4, 5)] + [stored(7, partly)]
    history = rebuilt_history(found, CheckpointId(7), NOTHING_RUNS, retain=3)
    assert history is not None
    assert [r.checkpoint for r in history.checkpoints] == [3, 4, 7]


def test_bases_that_are_not_retained_are_not_asked_for() -> None:
    history = rebuilt_history([stored(n, FIRST) for n in (3, 4, 5)], CheckpointId(5), NOTHING_RUNS)
    assert history is not None
    assert [(r.checkpoint, r.base) for r in history.checkpoints] == [(4, 0), (5, 0)]


def test_a_job_that_can_not_be_read_is_named() -> None:
    origin = msgspec.structs.replace(stored(1, FIRST).origin, record=b"{}")
    with pytest.raises(CorruptDataError, match="checkpoint of orders"):
        decode_record(origin)


def test_workers_know_a_parallelism_that_no_checkpoint_has() -> None:
    """The job was rescaled behind its newest checkpoint: sinks must fence those transactions, too."""
    record = msgspec.structs.replace(SECOND, former_parallelism={VertexId("totals"): (2,), VertexId("results"): (2,)})
    running = {VertexId("results"): frozenset({2, 3}), VertexId("orders"): frozenset({3})}
    history = rebuilt_history([stored(6, record)], CheckpointId(6), Attempt(3), parallelism=running)
    assert history is not None
    assert history.record is not None
    assert history.record.former_parallelism == {"totals": (2,), "results": (2, 3), "orders": (3,)}
