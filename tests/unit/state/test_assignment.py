"""Who gets which part of a checkpoint after a rescale."""

from __future__ import annotations

import pytest

from moorage.errors import StateError
from moorage.ids import CheckpointId, OperatorId
from moorage.state.assignment import SubtaskShare, assign, is_finished
from moorage.state.handles import (
    NO_OFFSET,
    ByteStreamHandle,
    DistributionMode,
    FileHandle,
    InputChannelHandle,
    KeyGroupsHandle,
    OperatorStreamHandle,
    StateMetaInfo,
)
from moorage.state.key_groups import key_group_range
from moorage.state.operator_state import CheckpointMetadata, OperatorState, OperatorSubtaskState

MAX = 8
UID = OperatorId("a" * 32)


def channels(subtask: int) -> InputChannelHandle:
    return InputChannelHandle(subtask, 0, 0, (0,), 1, ByteStreamHandle(f"positions-{subtask}", b"x"))


def keyed(parallelism: int, subtask: int, file: int = 0) -> KeyGroupsHandle:
    owned = key_group_range(MAX, parallelism, subtask)
    return KeyGroupsHandle(owned, (NO_OFFSET,) * len(owned), FileHandle(f"totals-{subtask}-{file}", 1))


def offsets(subtask: int) -> OperatorStreamHandle:
    states = {"offsets": StateMetaInfo((0,), DistributionMode.UNION)}
    return OperatorStreamHandle(states, ByteStreamHandle(f"offsets-{subtask}", b"x"))


def metadata(parallelism: int) -> CheckpointMetadata:
    subtasks = {
        subtask: OperatorSubtaskState(
            managed_keyed=(keyed(parallelism, subtask), keyed(parallelism, subtask, 1)),
            managed_operator=(offsets(subtask),),
            input_channel=(channels(subtask),),
        )
        for subtask in reversed(range(parallelism))
    }
    state = OperatorState(
        operator=UID, uid="totals", name="totals", parallelism=parallelism, max_parallelism=MAX, subtasks=subtasks
    )
    return CheckpointMetadata(checkpoint=CheckpointId(3), operators=(state,))


@pytest.mark.parametrize("former", [1, 2, 3, 8])
@pytest.mark.parametrize("now", [1, 2, 3, 8])
def test_every_subtask_gets_what_holds_its_key_groups_and_all_positions(former: int, now: int) -> None:
    for subtask in range(now):
        share = assign(metadata(former), UID, "totals", MAX, now, subtask)
        mine = set(key_group_range(MAX, now, subtask).groups())
        owners = [s for s in range(former) if mine & set(key_group_range(MAX, former, s).groups())]
        assert [h.stream for h in share.keyed] == [  # type: ignore[union-attr]
            FileHandle(f"totals-{owner}-{file}", 1) for owner in owners for file in (0, 1)
        ]
        assert share.union == tuple(map(offsets, range(former)))
        assert share.channels == tuple(map(channels, range(former)))


def test_an_operator_that_the_checkpoint_does_not_know_starts_empty() -> None:
    assert assign(metadata(2), OperatorId("b" * 32), "new", MAX, 2, 0) == SubtaskShare()


def test_the_number_of_key_groups_can_not_change() -> None:
    with pytest.raises(
        StateError, match="operator 'totals': checkpoint 3 was written with max_parallelism 8, the pipe"
    ):
        assign(metadata(2), UID, "totals", 16, 2, 0)


def test_state_that_somebody_else_wrote_is_refused() -> None:
    foreign = CheckpointMetadata(
        checkpoint=CheckpointId(3),
        operators=(
            OperatorState(
                operator=UID,
                uid="totals",
                name="totals",
                parallelism=1,
                max_parallelism=MAX,
                subtasks={0: OperatorSubtaskState(managed_operator=(FileHandle("x", 1),))},  # type: ignore[arg-type]
            ),
        ),
    )
    with pytest.raises(StateError, match="operator 'totals': its state is a FileHandle, which Moorage writes nowhere"):
        assign(foreign, UID, "totals", MAX, 1, 0)


def finished(parallelism: int, *subtasks: int, fully: bool = False) -> CheckpointMetadata:
    states = {index: OperatorSubtaskState(finished=index in subtasks) for index in range(parallelism)}
    state = OperatorState(
        operator=UID,
        uid="totals",
        name="totals",
        parallelism=parallelism,
        max_parallelism=MAX,
        subtasks={} if fully else states,
        fully_finished=fully,
    )
    return CheckpointMetadata(checkpoint=CheckpointId(3), operators=(state,))


def test_who_had_finished_starts_as_finished() -> None:
    assert [is_finished(finished(3, 1), UID, 3, subtask) for subtask in range(3)] == [False, True, False]
    assert not is_finished(finished(3), OperatorId("b" * 32), 3, 1), "the checkpoint does not know it"


@pytest.mark.parametrize("now", [1, 2, 4])
def test_where_only_some_had_finished_another_parallelism_begins_with_none(now: int) -> None:
    assert not any(is_finished(finished(3, 0, 1), UID, now, subtask) for subtask in range(now))


@pytest.mark.parametrize("now", [1, 3, 4])
def test_an_operator_that_had_finished_has_with_any_parallelism(now: int) -> None:
    assert all(is_finished(finished(3, fully=True), UID, now, subtask) for subtask in range(now))
