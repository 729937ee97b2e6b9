"""Metadata of every shape, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from moorage.ids import CheckpointId, OperatorId, OperatorUid
from moorage.state.handles import (
    NO_KEY_GROUP,
    NO_OFFSET,
    UNKNOWN_SIZE_BYTES,
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
    StateMetaInfo,
    StreamAndOffset,
    StreamHandle,
)
from moorage.state.key_groups import EMPTY_KEY_GROUP_RANGE, KeyGroupRange
from moorage.state.operator_state import (
    CANONICAL_SAVEPOINT,
    RETAINED_CHECKPOINT,
    CheckpointMetadata,
    CheckpointProperties,
    MasterState,
    OperatorState,
    OperatorSubtaskState,
    SnapshotType,
)

FOLDER = "orders/chk-7"

longs = st.integers(-(2**63), 2**63 - 1)
sizes = st.integers(0, 2**56)
indexes = st.integers(0, 2**31 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
names = texts.filter(bool)
paths = st.lists(st.from_regex(r"[a-z0-9_-]{1,6}", fullmatch=True), min_size=1, max_size=3).map("/".join)
offsets = st.lists(longs, max_size=3).map(tuple)
few = 2


def relative(path: str, size_bytes: int) -> FileHandle:
    return FileHandle(f"{FOLDER}/{path}", size_bytes, path)


byte_streams = st.builds(ByteStreamHandle, texts, st.binary(max_size=8))
segments = st.builds(SegmentHandle, paths, sizes, sizes, st.booleans(), texts)
streams: st.SearchStrategy[StreamHandle] = st.one_of(
    byte_streams, st.builds(FileHandle, paths, sizes), st.builds(relative, paths, sizes), segments
)

key_group_ranges = st.builds(
    lambda start, count: KeyGroupRange(start, start + count - 1) if count else EMPTY_KEY_GROUP_RANGE,
    st.integers(0, 100),
    st.integers(0, 4),
)


@st.composite
def key_groups_handles(draw: st.DrawFn) -> KeyGroupsHandle:
    groups = draw(key_group_ranges)
    canonical = draw(st.booleans())
    return KeyGroupsHandle(
        key_groups=groups,
        offsets=tuple(draw(st.sampled_from([NO_OFFSET, 0, 17, 2**62])) for _ in groups.groups()),
        stream=draw(streams),
        handle_id=None if canonical else draw(st.none() | texts),
        canonical=canonical,
    )


@st.composite
def incremental_handles(draw: st.DrawFn) -> IncrementalKeyedHandle:
    written_bytes = draw(st.just(UNKNOWN_SIZE_BYTES) | sizes)
    files = st.lists(st.builds(HandleAndLocalPath, paths, streams), max_size=few).map(tuple)
    return IncrementalKeyedHandle(
        backend_id=str(draw(st.uuids())),
        checkpoint=CheckpointId(draw(longs)),
        key_groups=draw(key_group_ranges),
        shared=draw(files),
        private=draw(files),
        metadata=draw(streams),
        written_bytes=written_bytes,
        handle_id="" if written_bytes == UNKNOWN_SIZE_BYTES else draw(texts),
    )


snapshots = st.one_of(key_groups_handles(), incremental_handles())
changes = st.one_of(
    st.builds(
        ChangelogBytesHandle,
        key_groups=key_group_ranges,
        first=sizes,
        end=sizes,
        changes=st.lists(st.builds(StateChange, st.integers(NO_KEY_GROUP, 9), st.binary(max_size=4)), max_size=few).map(
            tuple
        ),
        handle_id=texts,
    ),
    st.builds(
        ChangelogFilesHandle,
        key_groups=key_group_ranges,
        streams=st.lists(st.builds(StreamAndOffset, streams, longs), max_size=few).map(tuple),
        size_bytes=longs,
        written_bytes=longs,
        handle_id=texts,
        storage=st.none() | texts,
    ),
)
changelogs = st.builds(
    ChangelogHandle,
    key_groups=key_group_ranges.filter(len),
    materialized=st.lists(snapshots, max_size=few).map(tuple),
    changes=st.lists(changes, max_size=few).map(tuple),
    written_bytes=longs,
    materialization=longs,
    checkpoint=st.none() | longs.map(CheckpointId),
    handle_id=texts,
)
keyed = st.one_of(
    st.just(()),
    st.tuples(st.one_of(snapshots, changelogs)),
    st.lists(key_groups_handles().filter(lambda handle: bool(handle.key_groups)), min_size=2, max_size=3).map(tuple),
)

states = st.dictionaries(texts, st.builds(StateMetaInfo, offsets, st.sampled_from(DistributionMode)), max_size=few)
operator_handles = st.one_of(
    st.builds(OperatorStreamHandle, states, streams),
    st.builds(FileMergingOperatorHandle, states, st.none() | segments, paths, paths),
)
operator = st.lists(operator_handles, max_size=1).map(tuple)

input_channels = st.builds(InputChannelHandle, indexes, indexes, indexes, offsets, sizes, streams)
subpartitions = st.builds(ResultSubpartitionHandle, indexes, indexes, indexes, offsets, sizes, streams)
contents = st.lists(st.builds(ChannelContent, indexes, indexes, offsets, sizes), max_size=few).map(tuple)
inputs = st.one_of(input_channels, st.builds(MergedInputChannelHandle, indexes, contents, sizes, streams))
outputs = st.one_of(subpartitions, st.builds(MergedResultSubpartitionHandle, indexes, contents, sizes, streams))


def subtask_states(version: int) -> st.SearchStrategy[OperatorSubtaskState]:
    def channels(handles: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
        return st.lists(handles, max_size=few if version > 2 else 0).map(tuple)

    running = st.builds(
        OperatorSubtaskState,
        managed_operator=operator,
        raw_operator=operator,
        managed_keyed=keyed,
        raw_keyed=keyed,
        input_channel=channels(inputs if version > 5 else input_channels),
        result_subpartition=channels(outputs if version > 5 else subpartitions),
    )
    return running if version == 2 else st.one_of(running, st.just(OperatorSubtaskState(finished=True)))


@st.composite
def operator_states(draw: st.DrawFn, version: int) -> OperatorState:
    parallelism = draw(st.integers(0, 4))
    fully_finished = version > 2 and draw(st.integers(0, 9)) == 0
    subtasks = st.dictionaries(st.integers(0, parallelism - 1), subtask_states(version), max_size=few)
    name, uid = (draw(st.none() | names), draw(st.none() | names)) if version > 4 else (None, None)
    return OperatorState(
        operator=OperatorId(draw(st.binary(min_size=16, max_size=16)).hex()),
        uid=OperatorUid(uid) if uid else None,
        name=name,
        parallelism=parallelism,
        max_parallelism=draw(st.integers(parallelism, 128)),
        subtasks=draw(subtasks) if parallelism and not fully_finished else {},
        coordinator=draw(st.none() | byte_streams) if version > 2 and not fully_finished else None,
        fully_finished=fully_finished,
    )


@st.composite
def metadata(draw: st.DrawFn, version: int) -> CheckpointMetadata:
    """What ``version`` has room for."""
    properties = RETAINED_CHECKPOINT
    if version > 3:
        flags = {flag: st.booleans() for flag in CheckpointProperties.__struct_fields__ if flag != "snapshot_type"}
        properties = draw(st.builds(CheckpointProperties, snapshot_type=st.sampled_from(SnapshotType), **flags))
    usual = properties in (RETAINED_CHECKPOINT, CANONICAL_SAVEPOINT)
    return CheckpointMetadata(
        checkpoint=CheckpointId(draw(sizes)),
        operators=tuple(draw(st.lists(operator_states(version), max_size=few))),
        master_states=tuple(
            draw(
                st.lists(
                    st.builds(
                        MasterState, name=texts, version=st.integers(-(2**31), 2**31 - 1), data=st.binary(max_size=4)
                    ),
                    max_size=few,
                )
            )
        ),
        savepoint=properties.snapshot_type.savepoint,
        properties=None if usual else properties,
    )


versions = st.integers(2, 6)
versioned_metadata = versions.flatmap(lambda version: st.tuples(st.just(version), metadata(version)))
