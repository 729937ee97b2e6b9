from __future__ import annotations

import msgspec
import pytest
from tests.unit.cluster.graphs import JOB, SINK, SOURCE, TOTALS, orders_graph, subtasks
from tests.unit.cluster.world import acknowledgement

from moorage.checkpoint.decider import PERIODIC
from moorage.checkpoint.pending import (
    TRANSITIONS,
    AcknowledgeOutcome,
    PendingCheckpoint,
    PendingState,
    paths_written_for,
)
from moorage.graph.checkpoint_plan import checkpoint_plan
from moorage.graph.execution import Execution
from moorage.ids import Attempt, CheckpointId, SubtaskId, WorkerId
from moorage.messages.barriers import CHECKPOINT
from moorage.messages.events import AcknowledgeCheckpoint, OperatorSnapshot
from moorage.naming import exclusive_state_path, shared_state_path
from moorage.state.handles import (
    ByteStreamHandle,
    DistributionMode,
    FileHandle,
    KeyGroupsHandle,
    OperatorStreamHandle,
    StateMetaInfo,
)
from moorage.state.key_groups import KeyGroupRange
from moorage.state.operator_state import OperatorSubtaskState

GRAPH = orders_graph(2)
WORKER = WorkerId("w1/1")
SEVEN = CheckpointId(7)


@pytest.fixture
def pending() -> PendingCheckpoint:
    return new_pending()


def new_pending() -> PendingCheckpoint:
    plan = checkpoint_plan(Execution(GRAPH, Attempt(2), (WORKER, WORKER)))
    return PendingCheckpoint(
        SEVEN,
        Attempt(2),
        plan,
        8,
        base=CheckpointId(5),
        triggered_ms=1,
        deadline_ms=2,
        request=PERIODIC,
        options=CHECKPOINT,
    )


def ack(subtask: SubtaskId) -> AcknowledgeCheckpoint:
    return acknowledgement(GRAPH, WORKER, Attempt(2), subtask, SEVEN)


def test_it_is_complete_when_all_have_acknowledged(pending: PendingCheckpoint) -> None:
    for subtask in subtasks(GRAPH, SOURCE, TOTALS):
        assert not pending.is_fully_acknowledged
        assert pending.waits_for(subtask)
        assert pending.acknowledge(ack(subtask)) is AcknowledgeOutcome.SUCCESS
        pending.validate()
    assert pending.is_fully_acknowledged
    assert pending.state_bytes == 1_200


def test_a_second_acknowledgement_is_a_duplicate_and_changes_nothing(pending: PendingCheckpoint) -> None:
    subtask = SubtaskId(TOTALS, 0)
    pending.acknowledge(ack(subtask))
    assert pending.acknowledge(ack(subtask)) is AcknowledgeOutcome.DUPLICATE
    assert pending.state_bytes == 300
    assert pending.describe_missing().startswith("3 subtasks")


@pytest.mark.parametrize("stranger", [SubtaskId(SINK, 0), SubtaskId(TOTALS, 2)])
def test_strangers_are_unknown(pending: PendingCheckpoint, stranger: SubtaskId) -> None:
    assert pending.acknowledge(ack(stranger)) is AcknowledgeOutcome.UNKNOWN


def test_an_operator_that_the_subtask_does_not_have_is_unknown(pending: PendingCheckpoint) -> None:
    foreign = msgspec.structs.replace(ack(SubtaskId(TOTALS, 0)), operators=ack(SubtaskId(SOURCE, 0)).operators)
    assert pending.acknowledge(foreign) is AcknowledgeOutcome.UNKNOWN
    assert pending.waits_for(SubtaskId(TOTALS, 0))


def test_after_the_abort_everything_is_discarded(pending: PendingCheckpoint) -> None:
    pending.go(PendingState.ABORTED)
    assert pending.acknowledge(ack(SubtaskId(TOTALS, 0))) is AcknowledgeOutcome.DISCARDED


def test_metadata_has_every_operator_of_the_plan_in_order(pending: PendingCheckpoint) -> None:
    for subtask in reversed(subtasks(GRAPH, SOURCE, TOTALS)):
        pending.acknowledge(ack(subtask))
    metadata = pending.metadata()
    assert metadata.checkpoint == SEVEN
    assert [operator.uid for operator in metadata.operators] == ["orders", "totals", "results-encode"]
    assert [list(operator.subtasks) for operator in metadata.operators] == [[0, 1], [0, 1], []]
    assert {operator.max_parallelism for operator in metadata.operators} == {8}


def test_who_is_missing_is_named_in_order(pending: PendingCheckpoint) -> None:
    pending.acknowledge(ack(SubtaskId(SOURCE, 0)))
    assert pending.describe_missing() == "3 subtasks did not acknowledge: orders/1, totals/0, totals/1"


@pytest.mark.parametrize("before", PendingState)
@pytest.mark.parametrize("after", PendingState)
def test_it_only_goes_where_the_table_says(
    pending: PendingCheckpoint, before: PendingState, after: PendingState
) -> None:
    pending.state = before
    if after in TRANSITIONS[before]:
        pending.go(after)
        assert pending.state is after
    else:
        with pytest.raises(AssertionError, match="checkpoint 7 can't go"):
            pending.go(after)


def test_only_what_the_checkpoint_itself_wrote_may_be_discarded() -> None:
    def handle(path: str) -> KeyGroupsHandle:
        return KeyGroupsHandle(key_groups=KeyGroupRange(0, 0), offsets=(0,), stream=FileHandle(path=path, size_bytes=1))

    own = exclusive_state_path(JOB, SEVEN, Attempt(2), TOTALS, 0, "state")
    own_shared = shared_state_path(JOB, SEVEN, Attempt(2), TOTALS, 0, "delta")
    older = shared_state_path(JOB, CheckpointId(5), Attempt(2), TOTALS, 0, "delta")
    message = msgspec.structs.replace(
        ack(SubtaskId(TOTALS, 0)),
        operators=(
            OperatorSnapshot(
                operator=GRAPH.vertices[1].operators[0].operator_id,
                state=OperatorSubtaskState(
                    managed_keyed=tuple(handle(path) for path in (older, own_shared, own, "not/ours", own))
                ),
            ),
        ),
    )
    assert paths_written_for(message) == tuple(sorted({own, own_shared}))


@pytest.mark.parametrize(("mode", "expected"), [(DistributionMode.UNION, "totals"), (DistributionMode.SPLIT, None)])
def test_union_state_of_an_operator_that_has_partly_finished_is_found(
    pending: PendingCheckpoint, mode: DistributionMode, expected: str | None
) -> None:
    handle = OperatorStreamHandle({"rules": StateMetaInfo((0,), mode)}, ByteStreamHandle("s", b"x"))
    state = OperatorSubtaskState(managed_operator=(handle,))
    for subtask in subtasks(GRAPH, SOURCE, TOTALS):
        message = ack(subtask)
        (snapshot,) = message.operators
        pending.acknowledge(
            msgspec.structs.replace(message, operators=(msgspec.structs.replace(snapshot, state=state),))
        )
    assert pending.partly_finished_union() is None
    other = new_pending()
    message = ack(SubtaskId(TOTALS, 0))
    (snapshot,) = message.operators
    other.acknowledge(msgspec.structs.replace(message, operators=(msgspec.structs.replace(snapshot, state=state),)))
    other.finished(SubtaskId(TOTALS, 1))
    other.finished(SubtaskId(SOURCE, 1))
    assert other.partly_finished_union() == expected
