"""Version 1 is read only, and no present Flink reads it: what is expected is what MakeFile.java made by Flink 1.2."""

from __future__ import annotations

from pathlib import Path

from moorage.ids import CheckpointId, OperatorId
from moorage.serde.metadata import decode_metadata
from moorage.state.handles import (
    ByteStreamHandle,
    DistributionMode,
    FileHandle,
    KeyGroupsHandle,
    OperatorStreamHandle,
    StateMetaInfo,
)
from moorage.state.key_groups import KeyGroupRange
from moorage.state.operator_state import CheckpointMetadata, OperatorState, OperatorSubtaskState


def test_version_1_is_read_to_the_last_field() -> None:
    data = (Path(__file__).parent / "golden-version-1" / "_metadata").read_bytes()
    in_bytes = ByteStreamHandle("bytes", b"state")
    in_file = FileHandle("hdfs://host/state", 321)
    states = {
        "split": StateMetaInfo((0, 9), DistributionMode.SPLIT),
        # Flink 1.2 said BROADCAST for what has the number and the meaning of today's UNION.
        "broadcast": StateMetaInfo((18,), DistributionMode.UNION),
    }
    chain = OperatorSubtaskState(
        managed_operator=(OperatorStreamHandle(states, in_file), OperatorStreamHandle({}, in_bytes)),
        raw_operator=(OperatorStreamHandle(states, in_file),),
        managed_keyed=(KeyGroupsHandle(KeyGroupRange(64, 65), (7, 8), in_file),),
        raw_keyed=(KeyGroupsHandle(KeyGroupRange(64, 65), (7, 8), in_bytes),),
    )
    sink = OperatorSubtaskState(managed_operator=(OperatorStreamHandle(states, in_file),))
    assert decode_metadata(data) == CheckpointMetadata(
        checkpoint=CheckpointId(12),
        operators=(
            _vertex("0000000000000001fffffffffffffffe", 2, {1: chain}),
            _vertex("00000000000000030000000000000004", 1, {0: sink}),
        ),
    )


def _vertex(vertex: str, parallelism: int, subtasks: dict[int, OperatorSubtaskState]) -> OperatorState:
    return OperatorState(
        operator=OperatorId(vertex),
        uid=None,
        name=None,
        parallelism=parallelism,
        max_parallelism=128,
        subtasks=subtasks,
    )
