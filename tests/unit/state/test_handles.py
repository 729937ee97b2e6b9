"""Handles for people: short, and never the state itself."""

from __future__ import annotations

import msgspec
import pytest

from moorage.ids import CheckpointId, OperatorUid
from moorage.state.handles import (
    ByteStreamHandle,
    ChangelogBytesHandle,
    ChangelogFilesHandle,
    ChangelogHandle,
    ChannelContent,
    DistributionMode,
    FileHandle,
    FileMergingOperatorHandle,
    HandleAndLocalPath,
    IncrementalKeyedHandle,
    InputChannelHandle,
    KeyGroupsHandle,
    MergedInputChannelHandle,
    MergedResultSubpartitionHandle,
    OperatorStreamHandle,
    ResultSubpartitionHandle,
    SegmentHandle,
    StateChange,
    StateHandle,
    StateMetaInfo,
    StreamAndOffset,
    checkpointed_bytes,
    paths_of,
)
from moorage.state.key_groups import EMPTY_KEY_GROUP_RANGE, KeyGroupRange
from moorage.state.operator_ids import operator_id
from moorage.state.operator_state import MasterState, OperatorState, OperatorSubtaskState

GROUPS = KeyGroupRange(0, 15)
INLINE = ByteStreamHandle("inline", b"secret" * 20)
FILE = FileHandle("job/file", 1_234_567)
SEGMENT = SegmentHandle("job/merged", 100, 2_000)
STATES = {"offsets": StateMetaInfo((0, 8), DistributionMode.UNION)}
KEYED = KeyGroupsHandle(GROUPS, (0,) * 16, FILE)
INCREMENTAL = IncrementalKeyedHandle(
    backend_id="b",
    checkpoint=CheckpointId(7),
    key_groups=GROUPS,
    shared=(HandleAndLocalPath("1.sst", FILE), HandleAndLocalPath("2.sst", SEGMENT)),
    private=(),
    metadata=INLINE,
    written_bytes=2_000,
)
SHOWN_CHANNEL = InputChannelHandle(1, 0, 3, (0,), 120, INLINE)
CHANGES = ChangelogBytesHandle(GROUPS, 3, 5, (StateChange(0, b"secret"),), "id")
CHANGE_FILES = ChangelogFilesHandle(GROUPS, (StreamAndOffset(FILE, 0),), 1_234_567, 10, "id", None)

SHOWN: dict[str, StateHandle] = {
    "ByteStreamHandle(inline, 120 bytes)": INLINE,
    "FileHandle(job/file, 1.2 MB)": FILE,
    "SegmentHandle(job/merged from 100, 2.0 KB)": SEGMENT,
    "KeyGroupsHandle(key groups 0 to 15, FileHandle(job/file, 1.2 MB))": KEYED,
    "KeyGroupsHandle(no key groups, FileHandle(job/file, 1.2 MB))": KeyGroupsHandle(EMPTY_KEY_GROUP_RANGE, (), FILE),
    "IncrementalKeyedHandle(key groups 0 to 15, checkpoint 7, 2 shared and 0 private files, 1.2 MB)": INCREMENTAL,
    "ChangelogBytesHandle(key groups 0 to 15, changes 3 to 5, 6 bytes)": CHANGES,
    "ChangelogFilesHandle(key groups 0 to 15, 1 streams, 1.2 MB)": CHANGE_FILES,
    "ChangelogHandle(key groups 0 to 15, 1 materialized, 2 changelogs, 2.5 MB)": ChangelogHandle(
        GROUPS, (KEYED,), (CHANGES, CHANGE_FILES), 0, 1, None, "id"
    ),
    "OperatorStreamHandle(offsets: 2 union, FileHandle(job/file, 1.2 MB))": OperatorStreamHandle(STATES, FILE),
    "FileMergingOperatorHandle(offsets: 2 union, None)": FileMergingOperatorHandle(STATES, None, "owned", "shared"),
    "InputChannelHandle(subtask 1, channel 0.3, ByteStreamHandle(inline, 120 bytes))": SHOWN_CHANNEL,
    "ResultSubpartitionHandle(subtask 1, channel 0.3, FileHandle(job/file, 1.2 MB))": ResultSubpartitionHandle(
        1, 0, 3, (0,), 120, FILE
    ),
    "MergedInputChannelHandle(subtask 1, 1 channels, FileHandle(job/file, 1.2 MB))": MergedInputChannelHandle(
        1, (ChannelContent(0, 3, (0,), 120),), 120, FILE
    ),
    "MergedResultSubpartitionHandle(subtask 1, 1 channels, FileHandle(job/file, 1.2 MB))": (
        MergedResultSubpartitionHandle(1, (ChannelContent(0, 3, (0,), 120),), 120, FILE)
    ),
}


@pytest.mark.parametrize("shown", SHOWN)
def test_a_handle_says_what_it_is_of_where_it_lies_and_how_large_it_is(shown: str) -> None:
    assert repr(SHOWN[shown]) == shown


@pytest.mark.parametrize("handle", SHOWN.values(), ids=lambda handle: type(handle).__name__)
def test_equal_handles_are_equal_and_tell_what_to_discard(handle: StateHandle) -> None:
    copy = msgspec.convert(msgspec.to_builtins(handle), type(handle))
    assert copy == handle
    assert repr(copy) == repr(handle)
    assert set(paths_of(handle)) <= {"job/file", "job/merged"}
    assert handle.size_bytes >= 0


def test_what_a_checkpoint_has_written_may_be_less_than_what_it_refers_to() -> None:
    assert checkpointed_bytes(INCREMENTAL) == 2_000 < INCREMENTAL.size_bytes
    assert checkpointed_bytes(msgspec.structs.replace(INCREMENTAL, written_bytes=-1)) == INCREMENTAL.size_bytes
    assert checkpointed_bytes(CHANGE_FILES) == 10
    assert checkpointed_bytes(KEYED) == FILE.size_bytes
    subtask = OperatorSubtaskState(managed_keyed=(INCREMENTAL,), input_channel=(SHOWN_CHANNEL,))
    uid = OperatorUid("totals")
    operator = OperatorState(
        operator=operator_id(uid),
        uid=uid,
        name=None,
        parallelism=2,
        max_parallelism=32,
        subtasks={0: subtask, 1: OperatorSubtaskState()},
        coordinator=INLINE,
    )
    assert (subtask.checkpointed_bytes, subtask.size_bytes) == (2_120, INCREMENTAL.size_bytes + 120)
    assert (operator.checkpointed_bytes, operator.size_bytes) == (2_240, INCREMENTAL.size_bytes + 240)
    assert sorted(set(operator.paths())) == ["job/file", "job/merged"]


def test_states_of_operators_say_what_they_have_and_not_what_is_in_it() -> None:
    subtask = OperatorSubtaskState(managed_keyed=(KEYED, INCREMENTAL), input_channel=(SHOWN_CHANNEL,))
    assert repr(subtask) == "OperatorSubtaskState(2 managed keyed, 1 input channel, 2.5 MB)"
    assert repr(OperatorSubtaskState()) == "OperatorSubtaskState(0 bytes)"
    assert repr(OperatorSubtaskState(finished=True)) == "OperatorSubtaskState(finished, 0 bytes)"
    uid = OperatorUid("totals")
    operator = OperatorState(
        operator=operator_id(uid), uid=uid, name=None, parallelism=2, max_parallelism=8, subtasks={0: subtask}
    )
    assert repr(operator) == "OperatorState(totals, parallelism 2 of at most 8, 1 subtasks with state, 2.5 MB)"
    done = msgspec.structs.replace(operator, uid=None, subtasks={}, fully_finished=True)
    assert repr(done) == f"OperatorState({done.operator}, parallelism 2 of at most 8, finished, 0 bytes)"
    assert done != operator
    assert repr(MasterState(name="hook", version=7, data=b"secret")) == "MasterState(hook, version 7, 6 bytes)"
